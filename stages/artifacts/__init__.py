"""What one stage writes and the next reads: manifests and the files they name."""
