"""Text generation from a prompt, outside of the pipeline."""
