"""Stage `download`: text from where it is into one form, a document a row."""
