"""params.yaml as a whole: its sections, what must fit between them, what a run needs besides."""
