"""Stage `download`: bring text from any source into one format, one document per row."""
