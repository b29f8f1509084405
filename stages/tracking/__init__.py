"""Recording and display of a run; no output depends on this code."""
