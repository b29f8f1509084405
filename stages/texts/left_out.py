"""Files that hold no text that could be read: not refused, but left out by name and counted."""

ENCRYPTED = "encrypted file"
WITHOUT_TEXT = "PDF without text"


class LeftOut(Exception):
    """A file is left out, for the reason that its message names."""
