"""One HTTP/2 stream as pyvoy shows it to an ASGI application: its habits, and no network.

- receive() gives a future, which it completes later, cancelled or not;
- after the request's end it is an empty message at once, every time;
- when the stream is gone, what is pending and what comes is http.disconnect.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any


class AsgiStream:
    """A call, from the client's side.

    Attributes:
        sent: What the application sent.
        receive_count: How often it asked for more of the request.
    """

    def __init__(self, path: str, *, method: str = "POST", **headers: str) -> None:
        """Begin a call; names of headers are written with underscores for dashes."""
        wanted = {"content_type": "application/grpc", "te": "trailers", **headers}
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "client": ("::1", 1234),
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in wanted.items()
            ],
        }
        self.sent: list[Mapping[str, Any]] = []
        self.receive_count = 0
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._gone = False
        self._pending: asyncio.Future[Mapping[str, Any]] | None = None

    def write(self, *chunks: bytes, end: bool = False) -> None:
        """Send chunks of the request, and its end."""
        self._chunks.extend(chunks)
        self._ended = self._ended or end
        self._serve()

    def leave(self) -> None:
        """Reset the stream."""
        self._gone = True
        self._serve()

    def receive(self) -> "asyncio.Future[Mapping[str, Any]]":
        """ASGI's receive."""
        assert self._pending is None, "two receives at a time"
        self.receive_count += 1
        self._pending = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self._serve)
        return self._pending

    async def send(self, event: Mapping[str, Any]) -> None:
        """ASGI's send."""
        self.sent.append(event)

    @property
    def body(self) -> bytes:
        """What was sent of the answer."""
        return b"".join(event.get("body", b"") for event in self.sent)

    @property
    def status(self) -> tuple[int, dict[str, str]]:
        """The HTTP status, and the trailers, which are headers where nothing else came."""
        start, end = self.sent[0], self.sent[-1]
        headers = end["headers"] if end["type"] == "http.response.trailers" else start["headers"]
        return start["status"], {name.decode(): value.decode() for name, value in headers}

    def _serve(self) -> None:
        pending = self._pending
        if pending is None:
            return
        assert not pending.cancelled(), "pyvoy would fail: a pending receive was cancelled"
        if self._gone:
            event: Mapping[str, Any] = {"type": "http.disconnect"}
        elif self._chunks:
            body, more = self._chunks.popleft(), bool(self._chunks) or not self._ended
            event = {"type": "http.request", "body": body, "more_body": more}
        elif self._ended:
            event = {"type": "http.request", "body": b"", "more_body": False}
        else:
            return
        self._pending = None
        pending.set_result(event)
