"""How well a split is predicted: by a model, by n-grams."""
