"""Text generation: from a prompt to its continuation."""
