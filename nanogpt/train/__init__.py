"""The training loop, its checkpoints, and the micro-batch that fits."""
