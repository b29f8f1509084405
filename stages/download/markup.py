"""Conversion of Markdown and HTML to the text that a reader sees, with its line breaks.

inscriptis lays out a page as a browser does: blocks, lists, tables and preformatted text keep their
shape (docs/decisions/0016 compares converters). Markdown is rendered to HTML first, with every line
break kept, for the sake of poems and lyrics.
"""

import re
from functools import cache
from typing import Any

# A page is held in memory as a tree: 16 MiB of HTML take some 200 MB, of Markdown some 900 MB.
MAX_MARKUP_BYTES = 16 << 20

# YAML before the text, as in notes and blogs: `key: value` lines, lists and indented lines.
FRONT_MATTER = re.compile(
    r"\A---[ \t]*\n[\w-]+:.*\n(?:(?:\w[\w-]*:|[ \t#]|- ).*\n)*?---[ \t]*(?:\n|\Z)"
)

# The first line of a link definition: without this, "[Chorus]: Hallelujah" would be one.
LINK_DEFINITION = re.compile(
    r"\[[^\]]+\]:[ \t]*(<|#|\.{0,2}/|(https?|ftp|file|mailto|data):|\S+\.\w)", re.IGNORECASE
)

# Tags missing from inscriptis' browser profile.
BLOCKS = "dd details dl dt fieldset form hr section summary"
HIDDEN = "noscript select svg template textarea"
INLINE = "a abbr b bdi cite code del em font i ins kbd mark q s samp small span strong sub sup u"


def markdown_text(source: str) -> str:
    """Return the text of Markdown (CommonMark and tables), without front matter and markup.

    Raises ValueError if it is nested too deeply.
    """
    source = FRONT_MATTER.sub("", source.replace("\r\n", "\n"), count=1)
    try:
        return html_text(markdown_renderer().render(source))
    except RecursionError:
        raise ValueError("is nested too deep for Markdown; make it a .txt") from None


def html_text(source: str) -> str:
    """Return the text of an HTML page, without scripts, styles and other hidden elements.

    Raises ValueError if it is nested too deeply.
    """
    from inscriptis.html_engine import Inscriptis
    from lxml.etree import ParserError
    from lxml.html import HTMLParser, document_fromstring

    source = re.sub(r"\A\s*<\?xml[^>]*\?>", "", source)  # lxml refuses a str with a declaration
    try:
        # Without `huge_tree`, lxml silently drops elements nested deeper than 256.
        tree = document_fromstring(source, parser=HTMLParser(huge_tree=True))
        for numbered in tree.iterfind(".//ol[@start]/li[1]"):  # inscriptis reads only `value`
            numbered.set("value", numbered.get("value") or numbered.getparent().get("start"))
        text = Inscriptis(tree, inscriptis_config()).get_text()
    except ParserError:  # nothing but comments
        return ""
    except RecursionError:
        raise ValueError("is nested too deep for HTML; make it a .txt") from None
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


@cache
def markdown_renderer() -> Any:
    """Return a renderer of Markdown to HTML.

    Its limit on nesting is above Python's, so that deeper nesting raises instead of losing text.
    """
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import reference

    options = {"breaks": True, "maxNesting": 100_000}
    renderer = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])

    def list_item_open(self: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
        if number := tokens[index].info:  # as it is written: "24. May" of a diary stays the 24th
            tokens[index].attrSet("value", number)
        return str(self.renderToken(tokens, index, options, env))

    def link_definition(state: Any, start: int, end: int, silent: bool) -> bool:
        line = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
        return bool(LINK_DEFINITION.match(line)) and reference(state, start, end, silent)

    renderer.add_render_rule("list_item_open", list_item_open)
    renderer.block.ruler.at("reference", link_definition)
    return renderer


@cache
def inscriptis_config() -> Any:
    """Return a browser's layout in which elements inside preformatted text keep white space."""
    from inscriptis.css_profiles import CSS_PROFILES
    from inscriptis.html_properties import Display
    from inscriptis.model.config import ParserConfig
    from inscriptis.model.html_element import HtmlElement

    css = dict(CSS_PROFILES["strict"])
    css |= {tag: HtmlElement(display=Display.block) for tag in BLOCKS.split()}
    css |= {tag: HtmlElement(display=Display.none) for tag in HIDDEN.split()}
    css |= {tag: HtmlElement(whitespace=None) for tag in INLINE.split()}  # inherited
    return ParserConfig(css=css)
