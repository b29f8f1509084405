"""How fast, measured; see README.md."""
