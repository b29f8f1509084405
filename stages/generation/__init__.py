"""Text generation: from a prompt to its continuation, for stages, tools and served models."""
