"""What a training process does, keeps and reports."""
