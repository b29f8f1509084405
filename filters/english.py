"""A filter that keeps English documents, judged by their first 2,000 characters.

py3langid (Lui and Baldwin 2012) knows 97 languages. On a single line it is often wrong.
"""

try:
    from py3langid import langid
except ModuleNotFoundError:
    raise ValueError("py3langid is missing; `pip install -e '.[language]'` adds it") from None

CHARACTERS = 2_000  # py3langid reads about 2 MB/s; more text hardly makes it more certain


def keep(text: str) -> bool:
    """Return True if the text is in English."""
    language, _ = langid.classify(text[:CHARACTERS])
    return bool(language == "en")
