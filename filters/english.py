"""Keeps what is written in English, as far as the first 2,000 characters show.

py3langid (Lui and Baldwin 2012) knows 97 languages. Of a single line it is often wrong.
"""

try:
    from py3langid import langid
except ModuleNotFoundError:
    raise ValueError("py3langid is missing; `pip install -e '.[language]'` adds it") from None

CHARACTERS = 2_000  # it reads about 2 MB a second; more text hardly makes it surer


def keep(text: str) -> bool:
    """Whether the text is English."""
    language, _ = langid.classify(text[:CHARACTERS])
    return bool(language == "en")
