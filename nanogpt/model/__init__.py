"""A GPT: its layers, its loss, its KV cache, and its weights in files."""
