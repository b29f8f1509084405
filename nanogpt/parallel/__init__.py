"""One update by several processes or threads."""
