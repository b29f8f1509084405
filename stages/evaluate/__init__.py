"""Stage `evaluate`: the model's loss on held-out text, next to baselines."""
