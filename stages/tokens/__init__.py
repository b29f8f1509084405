"""Tokens: vocabularies, texts to ids, and ids on disk."""
