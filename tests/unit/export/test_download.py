import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from convscope_export.download import (
    DownloadError,
    HttpStatusError,
    InsecureUrlError,
    TruncatedError,
    UnreachableError,
    WrongDigestError,
    download,
)

CONTENTS = bytes(range(256)) * 4_000
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


@dataclass
class Host:
    """A real HTTP server on the loopback interface, and how it behaves."""

    contents: bytes = CONTENTS
    ranges: bool = True
    status: int | None = None
    # Sends so many bytes of each answer and hangs up.
    cut: int | None = None
    content_range: str | None = None
    length: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def host() -> Iterator[Host]:
    behaviour = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.asked.append(wanted)
            if behaviour.status is not None:
                self.send_error(behaviour.status)
                return
            start = 0
            if wanted and behaviour.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(behaviour.contents):
                    self.send_error(416)
                    return
            body = behaviour.contents[start:]
            self.send_response(206 if start else 200)
            if start:
                end, total = len(behaviour.contents) - 1, len(behaviour.contents)
                default = f"bytes {start}-{end}/{total}"
                self.send_header("Content-Range", behaviour.content_range or default)
            if behaviour.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: behaviour.cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    behaviour.url = f"http://127.0.0.1:{server.server_port}/file.tar.gz"
    yield behaviour
    server.shutdown()
    server.server_close()
    thread.join()


def part_of(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")


def test_downloads_and_reports_progress(host: Host, tmp_path: Path) -> None:
    destination = tmp_path / "new" / "file.tar.gz"
    reports: list[tuple[int, int | None]] = []
    download(
        host.url,
        destination,
        sha256=SHA256,
        on_progress=lambda done, total: reports.append((done, total)),
    )
    assert destination.read_bytes() == CONTENTS
    assert list(destination.parent.iterdir()) == [destination]
    assert reports[0] == (0, len(CONTENTS))
    assert reports[-1] == (len(CONTENTS), len(CONTENTS))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_a_truncated_download_is_kept_as_a_part_and_resumed(host: Host, tmp_path: Path) -> None:
    destination = tmp_path / "file.tar.gz"
    host.cut = 300_000
    with pytest.raises(TruncatedError, match=r"expected 1024000 bytes, got 300000; run the same"):
        download(host.url, destination, sha256=SHA256)
    assert not destination.exists()
    assert part_of(destination).read_bytes() == CONTENTS[:300_000]

    host.cut = None
    reports: list[int] = []
    download(host.url, destination, sha256=SHA256, on_progress=lambda done, _: reports.append(done))
    assert host.asked == [None, "bytes=300000-"]
    assert reports[0] == 300_000
    assert destination.read_bytes() == CONTENTS
    assert not part_of(destination).exists()


def test_starts_over_where_the_host_ignores_the_range(host: Host, tmp_path: Path) -> None:
    destination = tmp_path / "file.tar.gz"
    part_of(destination).write_bytes(CONTENTS[:1000])
    host.ranges = False
    download(host.url, destination, sha256=SHA256)
    assert host.asked == ["bytes=1000-"]
    assert destination.read_bytes() == CONTENTS


@pytest.mark.parametrize(
    "part",
    [b"x" * 1000, CONTENTS + b"too long", b"x" * len(CONTENTS)],
    ids=["of another file", "too long", "complete but altered"],
)
def test_a_part_that_does_not_belong_is_fetched_anew(
    host: Host, tmp_path: Path, part: bytes
) -> None:
    destination = tmp_path / "file.tar.gz"
    part_of(destination).write_bytes(part)
    download(host.url, destination, sha256=SHA256)
    assert host.asked == [f"bytes={len(part)}-", None]
    assert destination.read_bytes() == CONTENTS


def test_a_part_that_is_already_whole_is_taken(host: Host, tmp_path: Path) -> None:
    destination = tmp_path / "file.tar.gz"
    part_of(destination).write_bytes(CONTENTS)
    download(host.url, destination, sha256=SHA256)
    assert host.asked == [f"bytes={len(CONTENTS)}-"]
    assert destination.read_bytes() == CONTENTS


def test_a_wrong_digest_leaves_nothing(host: Host, tmp_path: Path) -> None:
    destination = tmp_path / "file.tar.gz"
    host.contents = CONTENTS[:-1] + b"!"
    got = hashlib.sha256(host.contents).hexdigest()
    with pytest.raises(WrongDigestError, match=f"expected SHA-256 {SHA256}, got {got}"):
        download(host.url, destination, sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_answer_to_a_range_is_not_appended(host: Host, tmp_path: Path) -> None:
    destination = tmp_path / "file.tar.gz"
    part_of(destination).write_bytes(CONTENTS[:1000])
    host.content_range = "bytes 0-1023999/1024000"
    with pytest.raises(HttpStatusError, match="expected the bytes from 1000 on, got bytes 0-"):
        download(host.url, destination, sha256=SHA256)
    host.content_range = None
    download(host.url, destination, sha256=SHA256)
    assert destination.read_bytes() == CONTENTS


def test_a_host_that_does_not_say_the_length(host: Host, tmp_path: Path) -> None:
    host.length = False
    reports: list[tuple[int, int | None]] = []
    download(
        host.url,
        tmp_path / "file",
        sha256=SHA256,
        on_progress=lambda done, total: reports.append((done, total)),
    )
    assert reports[-1] == (len(CONTENTS), None)


def test_http_errors_name_the_status(host: Host, tmp_path: Path) -> None:
    host.status = 404
    with pytest.raises(HttpStatusError, match="expected HTTP status 200, got 404 Not Found"):
        download(host.url, tmp_path / "file", sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_host_is_named(host: Host, tmp_path: Path) -> None:
    # Port 9 of the loopback interface: discard, which nothing listens on here.
    with pytest.raises(UnreachableError, match=r"cannot reach 127\.0\.0\.1: .*refused"):
        download("http://127.0.0.1:9/file", tmp_path / "file", sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://example.com/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "x"]
)
def test_only_https_leaves_the_machine(url: str, tmp_path: Path) -> None:
    with pytest.raises(InsecureUrlError, match="expected an https address"):
        download(url, tmp_path / "file", sha256=SHA256)
    assert list(tmp_path.iterdir()) == []


def test_a_destination_that_cannot_be_written_is_an_error(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Exception, match="cannot write") as raised:
        download(host.url, tmp_path / "file" / "archive", sha256=SHA256)
    assert not isinstance(raised.value, DownloadError)
    assert host.asked == []
