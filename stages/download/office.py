"""Text of word processor files, e-books and PDFs, one document per file.

Only text is read: no macro, script or link in a file is ever run or followed, and formats made for
macros (.docm, .odm) are left out like any unknown format. docs/decisions/0035 says what is kept of
each format and why.
"""

import io

from stages.download.archives import CHUNK, Budget
from stages.download.pdf import is_installed
from stages.lib.reasons import ENCRYPTED, WITHOUT_TEXT, LeftOut

OFFICE = (".docx", ".odt", ".epub", ".rtf", ".pdf")
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")


def needs_extra(kind: str) -> bool:
    """Return True if files of this kind need the extra `office`, which is not installed."""
    return kind == ".pdf" and not is_installed()


def office_text(kind: str, name: str, stream: io.BufferedReader, budget: Budget) -> str:
    """Return the text of a file whose suffix is in OFFICE.

    Raises ValueError if it is damaged, LeftOut if it is encrypted or a PDF of nothing but pictures.
    """
    if kind == ".docx":
        from stages.download.docx import docx_text

        refuse_ole(name, stream)
        return docx_text(name, stream, budget)
    if kind == ".odt":
        from stages.download.odt import odt_text

        return odt_text(name, stream, budget)
    if kind == ".epub":
        from stages.download.epub import epub_text

        return epub_text(name, stream, budget)
    if kind == ".rtf":
        from stages.download.rtf import rtf_text

        return rtf_text(name, stream)
    from stages.download.pdf import pdf_text

    text = pdf_text(name, stream)
    if text is None:
        raise LeftOut(ENCRYPTED)
    if text == "" or text.isspace():
        raise LeftOut(WITHOUT_TEXT)
    return text


def refuse_ole(name: str, stream: io.BufferedReader) -> None:
    """Raise LeftOut if a .docx is encrypted, ValueError if it is in the older format .doc.

    Both are OLE files, which name their streams in UTF-16.
    """
    if stream.peek(len(OLE))[: len(OLE)] != OLE:
        return
    before = b""
    while chunk := stream.read(CHUNK):
        if ENCRYPTED_STREAM in before + chunk:
            raise LeftOut(ENCRYPTED)
        before = chunk[-len(ENCRYPTED_STREAM) :]
    raise ValueError(f"{name} is a .doc, whatever its name says; save it as .docx")
