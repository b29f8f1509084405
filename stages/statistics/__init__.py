"""Stage `statistics`: what the documents are like, before training."""
