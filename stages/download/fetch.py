"""Download of one file from the web, with retries and resume.

The bytes that arrived before a connection was lost, or the process was killed, are kept next to the
file. The next try resumes there if the server supports it and its file has not changed. At the end
the sha256 is checked.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from nanogpt.files import file_sha256, is_intact
from stages.runtime.progress import ProgressBar
from stages.runtime.retry import Retries

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; between two reads of a response
CHUNK_BYTES = 64 << 10
TRANSIENT = (408, 425, 429)  # of the 4xx; the others mean that the URL is wrong


class RetryableResponse(requests.RequestException):
    """Raised for a response without content that is worth a retry."""


def fetch(url: str, sha256: str, file: Path) -> Path:
    """Download `url` to `file`, unless it is there already, and return `file`.

    Raises ValueError if the URL is wrong or the content has another sha256, ConnectionError or
    TimeoutError if the retries are used up.
    """
    if is_intact(file, sha256):
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.part")
    try:
        if not is_intact(partial, sha256):  # complete if a kill came just before the rename
            download(url, partial)
        if (actual := file_sha256(partial)) != sha256:
            partial.unlink()
            validator_file(partial).unlink(missing_ok=True)
            raise ValueError(
                f"{url} has sha256 {actual}, but params.yaml says {sha256}; the download was "
                "deleted. If you trust the file, put its sha256 in params.yaml"
            )
    except (ValueError, OSError):
        with suppress(OSError):  # folders that are not empty stay
            file.parent.rmdir()
            file.parent.parent.rmdir()
        raise
    return partial.rename(file)


def download(url: str, partial: Path) -> None:
    """Download the rest of `partial`; the count of retries starts again when new bytes arrive.

    Raises ValueError if the URL is wrong, ConnectionError or TimeoutError if the retries are
    used up.
    """
    retries, furthest = Retries(url), size_of(partial)
    while True:
        raw_response = None
        try:
            with send_request(url, partial) as response:
                raw_response = response.raw
                save_response(response, partial)
            return
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise ValueError(f"corpus.urls: {url} is not a valid URL: {error}") from None
        except requests.TooManyRedirects:
            raise ValueError(f"corpus.urls: {url} redirects in a loop; check the URL") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if size_of(partial) > furthest:
                furthest = size_of(partial)
                retries.renew()
            retries.wait(readable_error(error, urlsplit(url).netloc), raw_response)


def readable_error(error: Exception, host: str) -> Exception:
    """Return a network error in words for the user."""
    match error:
        case RetryableResponse():
            return error
        case requests.ConnectTimeout():
            return TimeoutError(f"no response from {host} within {TIMEOUT_SECONDS[0]:g} s")
        case requests.ReadTimeout() | urllib3.exceptions.ReadTimeoutError():
            return TimeoutError(f"{host} has sent nothing for {TIMEOUT_SECONDS[1]:g} s")
        case requests.exceptions.SSLError():
            return ConnectionError(f"no secure connection to {host}: {error}")
        case requests.exceptions.ProxyError():
            return ConnectionError(f"the proxy for {host} is not responding")
        case requests.ConnectionError():
            return ConnectionError(f"no response from {host}")
    return ConnectionError(f"the connection to {host} was lost")


def size_of(file: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return file.stat().st_size if file.exists() else 0


def validator_file(partial: Path) -> Path:
    """Return the path of the file that holds the validator (ETag or date) of a partial download."""
    return partial.with_suffix(".mark")


def send_request(url: str, partial: Path) -> requests.Response:
    """Request the bytes that `partial` lacks (RFC 9110, sections 13.1.5 and 14)."""
    # Ranges count bytes of the file on the server, so it must not be compressed on the way.
    headers = {"Accept-Encoding": "identity"}
    if size_of(partial) and (validator := validator_file(partial)).exists():
        headers |= {"Range": f"bytes={size_of(partial)}-", "If-Range": validator.read_text()}
    return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)


def save_response(response: requests.Response, partial: Path) -> None:
    """Append the content of a response to `partial`, or overwrite it if the full file comes.

    Raises ValueError if the URL is wrong, errors of requests or urllib3 if another try may
    succeed.
    """
    status, start = response.status_code, size_of(partial)
    if status == 416 or (status == 206 and not continues_at(start, response)):
        partial.unlink(missing_ok=True)  # the range does not fit: start again
        raise RetryableResponse(f"the server cannot continue at byte {start}")
    if 400 <= status < 500 and status not in TRANSIENT:
        raise ValueError(f"corpus.urls: {response.url} returned HTTP {status}; check the URL")
    if status not in (200, 206):
        raise RetryableResponse(f"the server returned HTTP {status}")
    if status == 200:
        start = 0
        partial.write_bytes(b"")
        save_validator(response.headers, validator_file(partial))
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with ProgressBar(response.url, total, start) as progress, partial.open("ab") as out:
        for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
            out.write(chunk)
            progress.add(len(chunk))


def continues_at(start: int, response: requests.Response) -> bool:
    """Return True if a partial response begins at the requested byte."""
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def save_validator(headers: Any, file: Path) -> None:
    """Save the strong ETag, or else the date, by which If-Range detects a changed file."""
    etag = headers.get("ETag", "")
    if validator := headers.get("Last-Modified") if etag.startswith("W/") or not etag else etag:
        file.write_text(validator)
    else:
        file.unlink(missing_ok=True)
