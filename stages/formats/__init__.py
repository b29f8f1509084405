"""File formats of other programs, for the tools; no output of a stage depends on this code."""
