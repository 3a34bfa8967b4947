"""gRPC calls as bytes over HTTP/2, for what no gRPC library would send."""

import select
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

_LARGEST_WINDOW = (1 << 31) - 1


def frame(message: bytes, *, flag: int = 0, size: int | None = None) -> bytes:
    """A gRPC frame; flag and size may be others than they should."""
    return struct.pack(">BI", flag, len(message) if size is None else size) + message


@dataclass
class Outcome:
    """How one call ended, as far as it did.

    Attributes:
        headers: What the answer began with.
        body: The bytes of the answer, frames and all.
        trailers: What it ended with.
        reset: The HTTP/2 error code of a stream that was reset.
        is_closed: Whether the connection ended before the call did.
    """

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    reset: int | None = None
    is_closed: bool = False
    has_ended: bool = False

    @property
    def http_status(self) -> int | None:
        return int(self.headers[":status"]) if self.headers else None

    @property
    def grpc_status(self) -> int | None:
        status = {**self.headers, **self.trailers}.get("grpc-status")
        return None if status is None else int(status)

    @property
    def grpc_message(self) -> str:
        return unquote({**self.headers, **self.trailers}.get("grpc-message", ""))

    @property
    def messages(self) -> list[bytes]:
        """The messages of the answer, which must be whole frames that are not compressed."""
        found, rest = [], self.body
        while rest:
            flag, size = struct.unpack_from(">BI", rest)
            assert flag == 0
            assert len(rest) >= 5 + size
            found.append(rest[5 : 5 + size])
            rest = rest[5 + size :]
        return found


class RawConnection:
    """One HTTP/2 connection in plain text, driven by hand.

    Attributes:
        h2: The state of the connection, for what has no method here.
        outcomes: The calls by their streams.
        goaway: The error code that the server closed the connection with, if it did.
        is_closed: Whether it is closed.
    """

    def __init__(self, address: str, *, grants_windows: bool = True) -> None:
        """Connect; with grants_windows=False whoever uses it gives the server its room."""
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._authority = address
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._grants_windows = grants_windows
        self.outcomes: dict[int, Outcome] = {}
        self.goaway: int | None = None
        self.is_closed = False
        self.h2.initiate_connection()
        if grants_windows:
            self.h2.increment_flow_control_window(_LARGEST_WINDOW - 65_535)
        self.flush()

    def start(
        self, path: str, headers: Mapping[str, str | None] | None = None, *, ends: bool = False
    ) -> int:
        """Send the headers of a call; those given replace what gRPC wants, None leaves out."""
        usual: dict[str, str | None] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": self._authority,
            "te": "trailers",
            "content-type": "application/grpc",
            **(headers or {}),
        }
        stream = self.h2.get_next_available_stream_id()
        self.outcomes[stream] = Outcome()
        sent = [(name, value) for name, value in usual.items() if value is not None]
        self.h2.send_headers(stream, sent, end_stream=ends)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        """Send bytes of a call's body as the server gives room; stops where the call has ended."""
        while not self._is_over(stream):
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if data and not room:
                self.receive()
                continue
            piece, data = data[:room], data[room:]
            self.h2.send_data(stream, piece, end_stream=ends and not data)
            self.flush()
            if not data:
                return

    def write(self, stream: int, data: bytes) -> None:
        """Put a DATA frame into what the next flush() sends, once the server gives room."""
        while self.h2.local_flow_control_window(stream) < len(data):
            self.flush()
            self.receive()
        self.h2.send_data(stream, data)

    def reset(self, stream: int) -> None:
        """Give a call up."""
        self.h2.reset_stream(stream, error_code=8)  # CANCEL
        self.flush()

    def send_noise(self, noise: bytes) -> None:
        """Send bytes that are no HTTP/2, after all that is."""
        self._socket.sendall(noise)

    def flush(self) -> None:
        """Send what h2 has to send."""
        data = self.h2.data_to_send()
        if not data:
            return
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self._close()

    def receive(self) -> list[Event]:
        """Wait for bytes of the server and note what they say."""
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self._close()
            return []
        events = self.h2.receive_data(data)
        for event in events:
            self._note(event)
        self.flush()
        return events

    def receive_what_came(self) -> None:
        """Note what the server has sent so far, without waiting for more."""
        while select.select([self._socket], [], [], 0)[0] and not self.is_closed:
            self.receive()

    def outcome(self, stream: int) -> Outcome:
        """Wait until a call has ended."""
        while not self._is_over(stream):
            self.receive()
        return self.outcomes[stream]

    def call(
        self,
        path: str,
        pieces: Iterable[bytes] = (),
        headers: Mapping[str, str | None] | None = None,
        *,
        ends: bool = True,
    ) -> Outcome:
        """A whole call: headers, the pieces of the body, half-close unless told not to."""
        stream = self.start(path, headers)
        pieces = list(pieces)
        for piece in pieces:
            self.send(stream, piece)
        if ends:
            self.send(stream, b"", ends=True)
        return self.outcome(stream)

    def close(self) -> None:
        """Close the connection without a word."""
        self._socket.close()

    def _is_over(self, stream: int) -> bool:
        return self.outcomes[stream].has_ended or self.is_closed

    def _close(self) -> None:
        self.is_closed = True
        for outcome in self.outcomes.values():
            outcome.is_closed |= not outcome.has_ended

    def _note(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
            return
        outcome = self.outcomes.get(getattr(event, "stream_id", 0) or 0)
        if outcome is None:
            return
        if isinstance(event, ResponseReceived):
            outcome.headers = _text(event.headers)
        elif isinstance(event, TrailersReceived):
            outcome.trailers = _text(event.headers)
        elif isinstance(event, DataReceived):
            outcome.body += event.data
            if self._grants_windows and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            outcome.has_ended = True
        elif isinstance(event, StreamReset):
            outcome.reset = int(event.error_code)
            outcome.has_ended = True


@contextmanager
def raw_connection(address: str, *, grants_windows: bool = True) -> Iterator[RawConnection]:
    """A connection that is closed at the end."""
    connection = RawConnection(address, grants_windows=grants_windows)
    try:
        yield connection
    finally:
        connection.close()


def _text(headers: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers}  # type: ignore[attr-defined]
