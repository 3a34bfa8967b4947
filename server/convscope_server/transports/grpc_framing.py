"""gRPC over HTTP/2 as bytes and headers: frames, timeouts, compression, status trailers.

Written from grpc/grpc doc/PROTOCOL-HTTP2.md and doc/compression.md. Pure
functions and one decoder; what reads and writes them is envoy_asgi.py.
"""

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from convscope_server.status import Code, RpcFailure

Header = tuple[bytes, bytes]

PREFIX_BYTES = 5
ACCEPTED_ENCODINGS = b"identity,deflate,gzip"

_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
# What the server itself must know of a call; the rest of the headers is metadata.
_RESERVED = frozenset(
    (
        *(b"content-type", b"host", b"te"),
        *(b"grpc-accept-encoding", b"grpc-encoding", b"grpc-timeout"),
        # Envoy's additions; the caller's address is in Call.peer.
        *(b"x-envoy-external-address", b"x-envoy-internal"),
    )
)
# zlib's wbits: "gzip" is RFC 1952, and gRPC's "deflate" is zlib's format, RFC 1950.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}
# Printable ASCII but for "%": what grpc-message leaves as it is.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """What the headers of a call say.

    Attributes:
        metadata: The caller's own, names in lower case, the last of equal names;
            values of names that end in "-bin" are bytes.
        timeout_s: How long the caller waits; None for ever.
        encoding: How compressed messages are: "identity", "gzip" or "deflate".
    """

    metadata: dict[str, str | bytes]
    timeout_s: float | None
    encoding: str


def is_grpc(headers: Iterable[Header]) -> bool:
    """Whether a request is gRPC at all: content-type application/grpc, +proto or the like."""
    for name, value in headers:
        if name == b"content-type":
            return value == b"application/grpc" or value.startswith(
                (b"application/grpc+", b"application/grpc;")
            )
    return False


def parse_headers(headers: Iterable[Header]) -> RequestHeaders:
    """What the headers of a gRPC request say; names are in lower case, as HTTP/2 has them.

    Raises:
        RpcFailure: UNIMPLEMENTED for a compression that the server does not know;
            INTERNAL for a malformed timeout or binary header, or without "te: trailers".
    """
    metadata: dict[str, str | bytes] = {}
    timeout_s, encoding, takes_trailers = None, "identity", False
    for name, value in headers:
        if name not in _RESERVED:
            metadata[name.decode("latin-1")] = (
                decode_binary(value) if name.endswith(b"-bin") else value.decode("latin-1")
            )
        elif name == b"te":
            takes_trailers = value == b"trailers"
        elif name == b"grpc-timeout":
            timeout_s = parse_timeout(value)
        elif name == b"grpc-encoding":
            encoding = value.decode("latin-1")
            if encoding != "identity" and encoding not in _WINDOW_BITS:
                raise RpcFailure(
                    Code.UNIMPLEMENTED,
                    f"expected messages compressed as identity, deflate or gzip, got {encoding!r}",
                )
    if not takes_trailers:
        # A proxy that knows no trailers lies between, and the status would be lost.
        raise RpcFailure(Code.INTERNAL, "expected the header te: trailers, which gRPC needs")
    return RequestHeaders(metadata, timeout_s, encoding)


def parse_timeout(value: bytes) -> float:
    """The seconds that a grpc-timeout header gives: up to eight digits and a unit.

    Raises:
        RpcFailure: It is written in another way.
    """
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise RpcFailure(
            Code.INTERNAL,
            "expected a grpc-timeout of up to eight digits and one of H, M, S, m, u, n, "
            f"got {value.decode('latin-1')!r}",
        )
    return int(found[1]) * _UNITS_S[found[2]]


def decode_binary(value: bytes) -> bytes:
    """The bytes of a "-bin" header: base64, padded or not; several, joined by commas, are one.

    Raises:
        RpcFailure: It is not base64.
    """
    try:
        return b"".join(
            base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
            for part in map(bytes.strip, value.split(b","))
        )
    except binascii.Error as error:
        raise RpcFailure(
            Code.INTERNAL, "expected base64 in a header whose name ends in -bin"
        ) from error


def encode_message(text: str) -> bytes:
    """A grpc-message: UTF-8, percent-encoded but for printable ASCII."""
    # HTTP/2 allows no space at either end of a header's value.
    inner = text.strip(" ")
    before, _, after = text.partition(inner) if inner else (text, "", "")
    encoded = quote_from_bytes(inner.encode(errors="replace"), safe=_PLAIN)
    return f"{'%20' * len(before)}{encoded}{'%20' * len(after)}".encode("ascii")


def decode_message(value: bytes) -> str:
    """What encode_message() wrote."""
    return unquote_to_bytes(value).decode(errors="replace")


def status_trailers(failure: RpcFailure) -> list[Header]:
    """The trailers that end a failed call."""
    trailers = [(b"grpc-status", b"%d" % failure.code)]
    if failure.message:
        trailers.append((b"grpc-message", encode_message(failure.message)))
    trailers.extend(
        (name.encode("ascii"), value.encode("ascii")) for name, value in failure.trailers
    )
    return trailers


def frame(message: bytes) -> bytes:
    """A message as it goes on the wire, not compressed."""
    return b"\0" + len(message).to_bytes(PREFIX_BYTES - 1, "big") + message


def only_message(chunk: bytes, max_message_bytes: int) -> bytes | None:
    """The message of a chunk that is one whole frame, allowed and not compressed; else None.

    Most requests are such a chunk, and a decoder costs more than the rest of them.
    """
    size = len(chunk) - PREFIX_BYTES
    if 0 <= size <= max_message_bytes and chunk[:PREFIX_BYTES] == b"\0" + size.to_bytes(4, "big"):
        return chunk[PREFIX_BYTES:]
    return None


def decompress(data: bytes, encoding: str, max_message_bytes: int) -> bytes:
    """A compressed message as it was; stops as soon as it proves too large.

    No bytes are an empty message in any encoding, as gRPC's own libraries have it.

    Raises:
        RpcFailure: RESOURCE_EXHAUSTED if it is larger than allowed, INTERNAL if the
            bytes are not what the encoding says.
    """
    if encoding not in _WINDOW_BITS:
        raise RpcFailure(Code.INTERNAL, "got a compressed message without a grpc-encoding header")
    if not data:
        return b""
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        message = inflater.decompress(data, max_message_bytes + 1)
    except zlib.error as error:
        raise RpcFailure(
            Code.INTERNAL, f"expected a message compressed as {encoding}, got other bytes"
        ) from error
    if len(message) > max_message_bytes:
        raise too_large(f"more than {max_message_bytes}", max_message_bytes)
    if not inflater.eof or inflater.unused_data:
        raise RpcFailure(
            Code.INTERNAL, f"expected a whole message compressed as {encoding}, got a part or more"
        )
    return message


def too_large(size: str, max_message_bytes: int) -> RpcFailure:
    """The failure of a call whose message is over the limit."""
    return RpcFailure(
        Code.RESOURCE_EXHAUSTED,
        f"expected messages of at most {max_message_bytes} bytes, got one of {size}",
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """A message as it came: compressed or not."""

    is_compressed: bool
    data: bytes


class FrameDecoder:
    """Frames from chunks of any size; holds at most one frame that is not whole yet.

    Attributes:
        failure: What is wrong with the bytes after the last whole frame, if anything:
            RESOURCE_EXHAUSTED for a frame larger than allowed, INTERNAL for what is no
            frame. The decoder must not be fed again then.
    """

    __slots__ = ("_chunks", "_held_bytes", "_max_message_bytes", "_wanted_bytes", "failure")

    def __init__(self, max_message_bytes: int) -> None:
        """Begin between two frames."""
        self.failure: RpcFailure | None = None
        self._max_message_bytes = max_message_bytes
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        # Of the frame that has begun, prefix and all, once its prefix is whole.
        self._wanted_bytes = PREFIX_BYTES

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes, in order, those before a failure too.

        How the bytes were cut into chunks, which is chance, must not decide what is heard.
        """
        if chunk:
            self._chunks.append(chunk)
            self._held_bytes += len(chunk)
        if self._held_bytes < self._wanted_bytes:
            return []
        # Joined only when a frame, or its prefix, is there: a large one is copied once.
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        frames: list[Frame] = []
        start, wanted = 0, PREFIX_BYTES
        while len(data) - start >= PREFIX_BYTES:
            flag, size = struct.unpack_from(">BI", data, start)
            if flag > 1:
                self.failure = RpcFailure(
                    Code.INTERNAL, f"expected a message that begins with 0 or 1, got {flag}"
                )
                break
            if size > self._max_message_bytes:
                self.failure = too_large(str(size), self._max_message_bytes)
                break
            end = start + PREFIX_BYTES + size
            if end > len(data):
                wanted = end - start
                break
            frames.append(Frame(flag == 1, data[start + PREFIX_BYTES : end]))
            start = end
        rest = data[start:]
        self._chunks = [rest] if rest else []
        self._held_bytes, self._wanted_bytes = len(rest), wanted
        return frames

    def finish(self) -> None:
        """No chunk will follow: a frame that has begun and is not whole is a failure."""
        if self._held_bytes and self.failure is None:
            self.failure = RpcFailure(
                Code.INTERNAL,
                f"expected a whole message, got {self._held_bytes} bytes of one before the end",
            )
