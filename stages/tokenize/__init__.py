"""Stage `tokenize`: documents to tokens, and the tokenizer that made them."""
