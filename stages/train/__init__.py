"""Stage `train`: a model trained on the shards."""
