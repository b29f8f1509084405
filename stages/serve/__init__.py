"""Text for a prompt, outside of the pipeline."""
