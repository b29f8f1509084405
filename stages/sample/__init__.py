"""Stage `sample`: text the model writes."""
