"""Stage `tokenize`: learn or load a tokenizer and encode all documents."""
