"""Commands next to the stages; no output of a stage depends on them."""
