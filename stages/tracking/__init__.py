"""What is recorded and shown of a run; no output depends on it."""
