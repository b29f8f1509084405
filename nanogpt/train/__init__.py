"""The training loop, its checkpoints, its validation and the choice of a micro-batch size."""
