"""Markdown and HTML to the text that a reader sees, with its line breaks.

inscriptis lays a page out as a browser does: blocks, lists, tables and preformatted text keep
their shape (docs/decisions/0016 compares). Markdown goes through HTML, every line break kept, as
poems and lyrics need.
"""

import re
from functools import cache
from typing import Any

# One page is held as a tree: 16 MiB of HTML take some 200 MB, of Markdown some 900 MB.
MAX_MARKUP_BYTES = 16 << 20

# YAML before the text, as in notes and blogs: `key: value` lines, lists and what is indented.
FRONT_MATTER = re.compile(
    r"\A---[ \t]*\n[\w-]+:.*\n(?:(?:\w[\w-]*:|[ \t#]|- ).*\n)*?---[ \t]*(?:\n|\Z)"
)

# inscriptis' profile of a browser lacks these.
BLOCKS = "dd details dl dt fieldset form hr section summary"
HIDDEN = "noscript select svg template textarea"
INLINE = "a abbr b bdi cite code del em font i ins kbd mark q s samp small span strong sub sup u"


def markdown_text(source: str) -> str:
    """The text of Markdown (CommonMark and tables), without front matter and marks."""
    source = FRONT_MATTER.sub("", source.replace("\r\n", "\n"), count=1)
    try:
        return html_text(markdown_renderer().render(source))
    except RecursionError:
        raise ValueError("is nested too deep for Markdown; make it a .txt") from None


def html_text(source: str) -> str:
    """The text of an HTML page, without scripts, styles and what else is not shown."""
    from inscriptis.html_engine import Inscriptis
    from lxml.etree import ParserError
    from lxml.html import HTMLParser, document_fromstring

    source = re.sub(r"\A\s*<\?xml[^>]*\?>", "", source)  # lxml takes no text with a declaration
    try:
        # Without `huge_tree` what is nested deeper than 256 would be lost without a word.
        tree = document_fromstring(source, parser=HTMLParser(huge_tree=True))
        text = Inscriptis(tree, inscriptis_config()).get_text()
    except ParserError:  # nothing but comments
        return ""
    except RecursionError:
        raise ValueError("is nested too deep for HTML; make it a .txt") from None
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


@cache
def markdown_renderer() -> Any:
    """Markdown to HTML; a deeper nesting than Python's own limit is refused, not cut off."""
    from markdown_it import MarkdownIt

    options = {"breaks": True, "maxNesting": 100_000}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"])


@cache
def inscriptis_config() -> Any:
    """A browser's layout; what is in preformatted text keeps its white space too."""
    from inscriptis.css_profiles import CSS_PROFILES
    from inscriptis.html_properties import Display
    from inscriptis.model.config import ParserConfig
    from inscriptis.model.html_element import HtmlElement

    css = dict(CSS_PROFILES["strict"])
    css |= {tag: HtmlElement(display=Display.block) for tag in BLOCKS.split()}
    css |= {tag: HtmlElement(display=Display.none) for tag in HIDDEN.split()}
    css |= {tag: HtmlElement(whitespace=None) for tag in INLINE.split()}  # as around it
    return ParserConfig(css=css)
