"""Commands beside the stages; no output depends on them."""
