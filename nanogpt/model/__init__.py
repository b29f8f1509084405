"""A GPT: its layers, its loss, and its weights in files."""
