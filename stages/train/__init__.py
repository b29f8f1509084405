"""Stage `train`: shards to a model."""
