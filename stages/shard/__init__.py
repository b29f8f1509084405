"""Stage `shard`: tokens to memory-mapped files, training and validation apart."""
