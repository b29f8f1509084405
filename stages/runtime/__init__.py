"""Starting, parallelizing, supervising and stopping stages; no output depends on this code."""
