"""File formats of other programs; no output of a stage depends on this code."""
