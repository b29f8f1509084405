"""One file on the web to one file on the disk, over a network that fails.

What a connection brought before it broke is kept next to the file, also when the process is killed,
and the next try continues from there if the server can and its file is still the same. What counts
in the end is the sha256.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from nanogpt.files import file_sha256, is_whole
from stages.runtime.progress import ProgressBar
from stages.runtime.retry import Retries

TIMEOUT_SECONDS = (10.0, 60.0)  # to connect; between two pieces of an answer
CHUNK_BYTES = 64 << 10
TRANSIENT = (408, 425, 429)  # of the 4xx; the others say that the address is wrong


class RetryableAnswer(requests.RequestException):
    """An answer that brings nothing, though another try may."""


def fetch(url: str, sha256: str, file: Path) -> Path:
    """Download `url` to `file`, or take what is there.

    Raises ValueError when the address is wrong or its content has another sha256, ConnectionError
    or TimeoutError when the server does not deliver.
    """
    if is_whole(file, sha256):
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.part")
    try:
        if not is_whole(partial, sha256):  # it is when a kill came before it got its name
            download(url, partial)
        if (found := file_sha256(partial)) != sha256:
            partial.unlink()
            validator_file(partial).unlink(missing_ok=True)
            raise ValueError(
                f"{url} has sha256 {found}, params.yaml says {sha256}; what was fetched is "
                "removed. If you trust the file, write the found one there"
            )
    except (ValueError, OSError):
        with suppress(OSError):  # one that is not empty stays
            file.parent.rmdir()
            file.parent.parent.rmdir()
        raise
    return partial.rename(file)


def download(url: str, partial: Path) -> None:
    """Fill `partial` up, in as many tries as it takes."""
    retries, furthest = Retries(url), size_of(partial)
    while True:
        answer = None
        try:
            with send_request(url, partial) as response:
                answer = response.raw
                save_response(response, partial)
            return
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise ValueError(f"corpus.urls: {url} is no address: {error}") from None
        except requests.TooManyRedirects:
            raise ValueError(f"corpus.urls: {url} leads in a circle; is it right?") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if size_of(partial) > furthest:
                furthest = size_of(partial)
                retries.renew()
            retries.wait(readable_error(error, urlsplit(url).netloc), answer)


def readable_error(error: Exception, host: str) -> Exception:
    """What a library says of a network's failure, as a user would."""
    match error:
        case RetryableAnswer():
            return error
        case requests.ConnectTimeout():
            return TimeoutError(f"nobody answers at {host} within {TIMEOUT_SECONDS[0]:g} s")
        case requests.ReadTimeout() | urllib3.exceptions.ReadTimeoutError():
            return TimeoutError(f"{host} has sent nothing for {TIMEOUT_SECONDS[1]:g} s")
        case requests.exceptions.SSLError():
            return ConnectionError(f"no secure connection to {host}: {error}")
        case requests.exceptions.ProxyError():
            return ConnectionError(f"the proxy on the way to {host} does not answer")
        case requests.ConnectionError():
            return ConnectionError(f"nobody answers at {host}")
    return ConnectionError(f"the connection to {host} broke")


def size_of(file: Path) -> int:
    """Its bytes, 0 where there is no such file."""
    return file.stat().st_size if file.exists() else 0


def validator_file(partial: Path) -> Path:
    """Where it is noted by which mark the server would know this version of its file again."""
    return partial.with_suffix(".mark")


def send_request(url: str, partial: Path) -> requests.Response:
    """The server's answer to a request for what is missing (RFC 9110, sections 13.1.5 and 14)."""
    # Bytes are counted as they are on the server, so nothing may compress them on the way.
    headers = {"Accept-Encoding": "identity"}
    if size_of(partial) and (mark := validator_file(partial)).exists():
        headers |= {"Range": f"bytes={size_of(partial)}-", "If-Range": mark.read_text()}
    return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)


def save_response(response: requests.Response, partial: Path) -> None:
    """Write what an answer brings after what is there, or in its place if it is the whole file.

    Raises ValueError when the address is wrong, requests' or urllib3's errors when it broke.
    """
    status, start = response.status_code, size_of(partial)
    if status == 416 or (status == 206 and not continues_at(start, response)):
        partial.unlink(
            missing_ok=True
        )  # not the range that was asked for: from the beginning, then
        raise RetryableAnswer(f"it cannot continue at byte {start}")
    if 400 <= status < 500 and status not in TRANSIENT:
        raise ValueError(f"corpus.urls: {response.url} answers {status}; is it right?")
    if status not in (200, 206):
        raise RetryableAnswer(f"it answers {status}")
    if status == 200:
        start = 0
        partial.write_bytes(b"")
        save_validator(response.headers, validator_file(partial))
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    with ProgressBar(response.url, total, start) as meter, partial.open("ab") as out:
        for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
            out.write(chunk)
            meter.add(len(chunk))


def continues_at(start: int, response: requests.Response) -> bool:
    """Whether a partial answer begins where it was asked to."""
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def save_validator(headers: Any, mark: Path) -> None:
    """Keep the strong ETag, or else the date, by which If-Range detects a changed file."""
    etag = headers.get("ETag", "")
    if known := headers.get("Last-Modified") if etag.startswith("W/") or not etag else etag:
        mark.write_text(known)
    else:
        mark.unlink(missing_ok=True)
