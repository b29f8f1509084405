"""PDF to its text, page after page, by PDFium in a process of its own.

PDFium is what Chrome shows PDFs with. It is C++ that reads files of any origin, so each file gets a
process with a limit on its time and memory: a file that is damaged or made to do harm can crash or
stall nothing else. A PDF holds lines and not paragraphs: lines stay as they are set, words
hyphenated at the end of one are joined, headers and page numbers stay. No script in a PDF is run.

This module is also the program of that process (`run_child`), which imports nothing of the project.
"""

import ctypes
import io
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec

MAX_PAGES = 20_000  # the longest of books have some thousands
MAX_SECONDS = 300  # of processor time; PDFium reads some hundred pages in one
MAX_MEMORY_BYTES = 2 << 30
MAX_TEXT_BYTES = 256 << 20  # half of it is refused as too long a document
HYPHENATED = "\ufffe"  # what PDFium has for a hyphen and the line break after it

PR_SET_PDEATHSIG = 1  # of Linux: end with the parent, however that ends
NEEDS_A_PASSWORD, TOO_MANY_PAGES = 3, 4  # exit codes


def is_installed() -> bool:
    """Whether PDFium is there; it comes with `pip install '.[office]'`."""
    return find_spec("pypdfium2") is not None


def pdf_text(name: str, stream: io.BufferedReader) -> str | None:
    """Return the text of a PDF, "" where there is none, None where it needs a password.

    Raises ValueError when it is damaged, or takes more than any text does.
    """
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        file.seek(0)
        # Without -P, modules next to this one would hide those of the standard library.
        limits = map(str, (MAX_PAGES, MAX_SECONDS, MAX_MEMORY_BYTES))
        command = [sys.executable, "-P", __file__, *limits]
        done = subprocess.run(command, stdin=file, capture_output=True)
    if done.returncode == NEEDS_A_PASSWORD:
        return None
    if done.returncode:
        raise ValueError(
            f"{name} {fault(done)}; use one that is whole, or leave it out by its name"
        )
    return done.stdout.decode("utf-8", "surrogatepass")


def fault(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return what went wrong in a process that failed, in words."""
    if done.returncode == TOO_MANY_PAGES:
        return f"has more than {MAX_PAGES:,} pages"
    if done.returncode == -signal.SIGXCPU:
        return f"takes more than {MAX_SECONDS} s to read"
    if done.returncode < 0:
        return f"cannot be read: PDFium ended by {signal.Signals(-done.returncode).name}"
    *_, last = ["", *done.stderr.decode(errors="replace").split("\n")[:-1]]
    return f"cannot be read: {last}"


def run_child(max_pages: int, max_seconds: int, max_memory_bytes: int) -> None:
    """Write the text of the PDF on standard input to standard output."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(
        resource.RLIMIT_CPU, (max_seconds, max_seconds + 1)
    )  # a signal, then another
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Not on macOS, which maps far more than it uses.
        resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    import pypdfium2
    from pypdfium2.raw import FPDF_ERR_PASSWORD

    try:
        document = pypdfium2.PdfDocument(sys.stdin.buffer)
        if len(document) > max_pages:
            sys.exit(TOO_MANY_PAGES)
        written = 0
        for number in range(len(document)):
            text = document[number].get_textpage().get_text_range()
            text = text.replace("\r\n", "\n").replace(HYPHENATED, "").replace("\0", "").strip("\n")
            page = (text + "\n" if text else "").encode("utf-8", "surrogatepass")
            written += sys.stdout.buffer.write(page)
            if written > MAX_TEXT_BYTES:
                return
    except pypdfium2.PdfiumError as error:
        sys.exit(NEEDS_A_PASSWORD if error.err_code == FPDF_ERR_PASSWORD else str(error))


if __name__ == "__main__":
    run_child(*map(int, sys.argv[1:]))
