"""Stage `clean`: choose the documents worth training on."""
