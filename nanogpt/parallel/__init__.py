"""Data parallelism: one update shared by several processes or threads."""
