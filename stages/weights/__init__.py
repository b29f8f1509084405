"""Stage `weights`: record the weights that training starts from."""
