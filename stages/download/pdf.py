"""Reader of PDF files: the text of each page, extracted by PDFium in a separate process.

PDFium is the PDF engine of Chrome, written in C++. Files may come from anywhere, so each is read in
a process of its own with limits on time and memory: a damaged or malicious file can neither crash
nor stall the stage. A PDF holds lines, not paragraphs: lines are kept as typeset, words hyphenated
at the end of a line are joined, headers and page numbers are kept. No script in a PDF is run.

This module is also the program of that process (`run_child`) and imports nothing from the project.
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

MAX_PAGES = 20_000  # the longest books have some thousands
MAX_SECONDS = 300  # of CPU time; PDFium reads some hundred pages per second
MAX_MEMORY_BYTES = 2 << 30
MAX_TEXT_BYTES = 256 << 20  # twice the limit on a document, so the rest is not needed
HYPHENATED = "\ufffe"  # PDFium's character for a hyphen and the line break after it

PR_SET_PDEATHSIG = 1  # Linux: get a signal when the parent dies
NEEDS_A_PASSWORD, TOO_MANY_PAGES = 3, 4  # exit codes


def is_installed() -> bool:
    """Return True if PDFium is installed; `pip install '.[office]'` adds it."""
    return find_spec("pypdfium2") is not None


def pdf_text(name: str, stream: io.BufferedReader) -> str | None:
    """Return the text of a PDF, "" if it has none, None if it needs a password.

    Raises ValueError if it is damaged or exceeds the limits on pages, time or memory.
    """
    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(stream, file)
        file.seek(0)
        # Without -P, modules next to this one would shadow those of the standard library.
        limits = map(str, (MAX_PAGES, MAX_SECONDS, MAX_MEMORY_BYTES))
        command = [sys.executable, "-P", __file__, *limits]
        child = subprocess.run(command, stdin=file, capture_output=True)
    if child.returncode == NEEDS_A_PASSWORD:
        return None
    if child.returncode:
        raise ValueError(
            f"{name} {failure(child)}; use an intact copy, or exclude it with corpus.glob"
        )
    return child.stdout.decode("utf-8", "surrogatepass")


def failure(child: "subprocess.CompletedProcess[bytes]") -> str:
    """Return why a child process failed, in words for the user."""
    if child.returncode == TOO_MANY_PAGES:
        return f"has more than {MAX_PAGES:,} pages"
    if child.returncode == -signal.SIGXCPU:
        return f"takes more than {MAX_SECONDS} s to read"
    if child.returncode < 0:
        return f"cannot be read: PDFium ended by {signal.Signals(-child.returncode).name}"
    *_, last_line = ["", *child.stderr.decode(errors="replace").split("\n")[:-1]]
    return f"cannot be read: {last_line}"


def run_child(max_pages: int, max_seconds: int, max_memory_bytes: int) -> None:
    """Write the text of the PDF on standard input to standard output."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # SIGXCPU at the soft limit, SIGKILL at the hard one.
    resource.setrlimit(resource.RLIMIT_CPU, (max_seconds, max_seconds + 1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Not on macOS, where a process maps far more memory than it uses.
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
