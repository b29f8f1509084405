"""Stage `clean`: which documents are worth learning from."""
