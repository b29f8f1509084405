"""Stage `evaluate`: how well the model predicts unseen text, and baselines."""
