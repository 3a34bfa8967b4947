"""Downloads that resume, and that take their final name only with the right digest.

Knows nothing of CIFAR-10.
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from convscope_export.atomic_file import FileWriteError
from convscope_export.errors import ExportError

_CHUNK_BYTES = 1 << 18
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DownloadError(ExportError):
    """A download that did not succeed."""


class InsecureUrlError(DownloadError):
    """The address is neither https nor on this machine."""


class UnreachableError(DownloadError):
    """No connection to the host, or one that broke before the first byte."""


class HttpStatusError(DownloadError):
    """The host answered, but not with the file."""


class _RangeError(HttpStatusError):
    """The host has nothing beyond the part that is already here."""


class TruncatedError(DownloadError):
    """The connection ended before the file did; what came is kept for the next try."""


class WrongDigestError(DownloadError):
    """The whole file came and is not the one that was expected."""


def download(
    url: str,
    destination: Path,
    *,
    sha256: str,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    timeout_s: float = 30.0,
) -> None:
    """Fetch a file, going on where an earlier try stopped.

    The bytes go to `NAME.part` beside the destination and stay there when the
    connection breaks. A part that turns out not to belong to the file (the
    digest of the whole is wrong) is thrown away and fetched once more from its
    start.

    Args:
        url: https address; http only on the loopback interface.
        destination: Final name. It exists afterwards only with the right digest.
        sha256: Expected digest, 64 hexadecimal digits.
        on_progress: Called with the bytes there are so far (the resumed ones
            included) and the total, None where the host does not say it.
        timeout_s: Longest silence of the host, in seconds.

    Raises:
        InsecureUrlError: Another scheme than https.
        UnreachableError: The host cannot be reached.
        HttpStatusError: The host answers with another status than 200 or 206.
        TruncatedError: The connection ended early; call again to go on.
        WrongDigestError: The file differs from the one expected; it is deleted.
        FileWriteError: The destination's directory cannot be written.
    """
    address = urlsplit(url)
    loopback = address.scheme == "http" and address.hostname in _LOOPBACK
    if address.scheme != "https" and not loopback:
        raise InsecureUrlError(f"expected an https address, got {url}")
    part = destination.with_name(destination.name + ".part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.is_file() and part.stat().st_size > 0
        digest = _fetch(url, part, on_progress, timeout_s)
        if digest != sha256 and resumed:
            part.unlink()
            digest = _fetch(url, part, on_progress, timeout_s)
        if digest != sha256:
            part.unlink()
            raise WrongDigestError(
                f"{url} is not the expected file: expected SHA-256 {sha256}, got {digest}; "
                "it was deleted: try again, or fetch the file another way"
            )
        part.replace(destination)
    except OSError as error:
        raise FileWriteError(
            f"cannot write {error.filename or part}: {error.strerror or error}; "
            "give another directory, or make room"
        ) from error


def _fetch(
    url: str, part: Path, on_progress: Callable[[int, int | None], None], timeout_s: float
) -> str:
    """Complete the part file; returns the SHA-256 of the whole."""
    start = part.stat().st_size if part.exists() else 0
    try:
        response = _open(url, start, timeout_s)
    except _RangeError:
        # The part is as long as the file, or longer: only its digest can tell.
        with part.open("rb") as file:
            return _digest(file).hexdigest()
    with response, part.open("a+b") as file:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            # The host ignored the range and sends the file from its first byte.
            file.truncate(0)
            start = 0
        elif not _continues(response, start):
            file.truncate(0)
            raise HttpStatusError(
                f"{url}: expected the bytes from {start} on, got "
                f"{response.headers.get('Content-Range')}; run the same command again"
            )
        return _receive(url, response, file, start, on_progress)


def _open(url: str, start: int, timeout_s: float) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "convscope"})  # noqa: S310 - scheme checked by download()
    if start:
        request.add_header("Range", f"bytes={start}-")
    host = urlsplit(url).hostname
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        out_of_range = start and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        raise (_RangeError if out_of_range else HttpStatusError)(
            f"{url}: expected HTTP status 200, got {error.code} {error.reason}; "
            "try later, or fetch the file another way"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(
            f"cannot reach {host}: {reason}; check the network, or fetch {url} another way"
        ) from error
    return response


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == start


def _digest(file: BinaryIO) -> "hashlib._Hash":
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest


def _receive(
    url: str,
    response: http.client.HTTPResponse,
    file: BinaryIO,
    start: int,
    on_progress: Callable[[int, int | None], None],
) -> str:
    """Append the body to the file; returns the SHA-256 of the whole file."""
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    digest = _digest(file)
    done = start
    on_progress(done, total)
    broken: Exception | None = None
    while True:
        try:
            chunk = response.read(_CHUNK_BYTES)
        except http.client.IncompleteRead as error:
            chunk, broken = error.partial, error
        except (OSError, http.client.HTTPException) as error:
            chunk, broken = b"", error
        digest.update(chunk)
        file.write(chunk)
        done += len(chunk)
        on_progress(done, total)
        if not chunk or broken:
            break
    if broken or (total is not None and done < total):
        raise TruncatedError(
            f"{url} ended early: expected {total if total is not None else 'more'} bytes, "
            f"got {done}; run the same command again to go on from there"
        ) from broken
    return digest.hexdigest()
