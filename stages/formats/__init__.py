"""Files of other programs, read and written by the tools; no output of a stage depends on them."""
