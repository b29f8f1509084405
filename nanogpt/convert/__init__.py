"""Weights of other projects in and out; no stage depends on this."""
