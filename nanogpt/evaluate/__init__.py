"""What the final evaluation compares a model with, and how well it learns as it reads."""
