"""Stage `weights`: which weights a training starts from."""
