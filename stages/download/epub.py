"""Reader of .epub e-books: the pages in reading order, each converted like a web page.

An empty line separates two pages. A table of contents is left out if the book declares it as one. A
book whose pages are encrypted, as purchased books often are, is left out and reported by name.
"""

import io
import posixpath
from urllib.parse import unquote

from stages.download.archives import Budget
from stages.download.encodings import NotText, decode_stream
from stages.download.markup import MAX_MARKUP_BYTES, html_text
from stages.download.zip_package import Package, Target, resolve_path, zip_package
from stages.lib.reasons import ENCRYPTED, LeftOut

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
PAGES = {"application/xhtml+xml", "text/html"}


def epub_text(name: str, stream: io.BufferedReader, budget: Budget) -> str:
    """Return the text of an .epub.

    Raises ValueError if it is damaged or a bomb, LeftOut if its pages are encrypted.
    """
    with zip_package(name, stream, budget) as package:
        pages = reading_order(package)
        if not encrypted_parts(package).isdisjoint(pages):
            raise LeftOut(ENCRYPTED)
        texts = [page_text(package, page) for page in pages]
    return "\n\n".join(text for text in texts if text)


def reading_order(package: Package) -> list[str]:
    """Return the names of the parts that hold the pages of a book, in reading order."""
    container = Attributes("rootfile", "full-path")
    package.feed(CONTAINER, container)
    if not container.values:
        raise ValueError(
            f"{package.name} is not an .epub: no book is listed in it; use an intact copy"
        )
    root = container.values[0]
    book = Book(posixpath.dirname(root))
    package.feed(root, book)
    missing = [id for id in book.order if id not in book.items]
    if missing:
        raise ValueError(f"{package.name} lists the page {missing[0]!r}, but does not contain it")
    return [page for page in map(book.items.__getitem__, book.order) if page]


def encrypted_parts(package: Package) -> set[str]:
    """Return the names of the encrypted parts, which are often only fonts."""
    references = Attributes("CipherReference", "URI")
    if ENCRYPTION in package.parts:
        package.feed(ENCRYPTION, references)
    return {resolve_path("", unquote(path)) for path in references.values}


def page_text(package: Package, page: str) -> str:
    """Return the text of a page. Raises ValueError if it has too much markup."""
    name = f"{package.name}/{page}"
    source, length = [], 0
    try:
        with package.open(page) as stream:
            for chunk in decode_stream(name, stream, "utf-8"):
                source.append(chunk)
                length += len(chunk)
                if length > MAX_MARKUP_BYTES:
                    raise ValueError(f"{name} has more than {MAX_MARKUP_BYTES >> 20} MiB of markup")
    except NotText as error:  # corpus.encoding does not apply to e-books: no use suggesting it
        raise ValueError(f"{name} {error.fault}, as a page of an e-book has to be") from None
    try:
        return html_text("".join(source))
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


class Attributes(Target):
    """Collects one attribute of all elements with a given name, in any namespace."""

    def __init__(self, element: str, attribute: str) -> None:
        self.element, self.attribute = element, attribute
        self.values: list[str] = []

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Add the attribute of a matching element."""
        if tag.rpartition("}")[2] == self.element and self.attribute in attributes:
            self.values.append(attributes[self.attribute])


class Book(Target):
    """Collects the items of a book by id, "" for those that are not pages, and their order."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.items: dict[str, str] = {}
        self.order: list[str] = []

    def start(self, tag: str, attributes: dict[str, str], /) -> None:
        """Add an item of the manifest, or a reference to one in reading order."""
        name = tag.rpartition("}")[2]
        if name == "item":
            path = resolve_path(self.folder, unquote(attributes.get("href", "").partition("#")[0]))
            is_page = attributes.get("media-type", "").lower() in PAGES
            is_contents = "nav" in attributes.get("properties", "").split()
            self.items[attributes.get("id", "")] = path if is_page and not is_contents else ""
        elif name == "itemref":
            self.order.append(attributes.get("idref", ""))
