"""Conversion of other projects' weights to ours and back; no stage depends on it."""
