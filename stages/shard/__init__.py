"""Stage `shard`: split tokens into training and validation and write memory-mapped files."""
