"""Texts: from whatever they come in to documents, and what is worth knowing of them."""
