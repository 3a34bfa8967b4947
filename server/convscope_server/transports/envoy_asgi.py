"""gRPC as an ASGI application: what Envoy calls, inside its process, for every request.

asgi_request.py reads what callers send; here are the calls, and what is sent back.
Of an answer only a body that is not the last waits until Envoy has taken it, and
a send() that is pending must not be cancelled: pyvoy, which carries this, completes
its future all the same, and the event loop logs an error for each.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from convscope_server.call import Call, Unary
from convscope_server.dispatch import Dispatcher
from convscope_server.status import Code, RpcFailure
from convscope_server.transports.asgi_request import CallerGone, Event, FirstLooks, Receive, Request
from convscope_server.transports.grpc_framing import (
    ACCEPTED_ENCODINGS,
    Header,
    frame,
    is_grpc,
    parse_headers,
    status_trailers,
    too_large,
)

log = logging.getLogger(__name__)

Send = Callable[[Event], Awaitable[None]]

_HEADERS: list[Header] = [
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", ACCEPTED_ENCODINGS),
]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_LAST_BODY = {"type": "http.response.body", "body": b"", "more_body": False}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
# Of a stream's answers, what may wait here while Envoy takes those before it.
_WAITING_PARTS_BYTES = 64 << 10


class GrpcAsgiApp:
    """Carries calls to the dispatcher, each in the task that ASGI gives it.

    Attributes:
        open_streams: Calls of streaming methods that have not ended.
    """

    def __init__(self, dispatcher: Dispatcher, *, max_message_bytes: int) -> None:
        """Serve the dispatcher's methods; messages over the limit are refused either way."""
        self._dispatcher = dispatcher
        # By the path as it came: one with %-escapes or a query names no method.
        self._methods = {name.encode(): method for name, method in dispatcher.methods.items()}
        self._max_message_bytes = max_message_bytes
        self.open_streams = 0
        self._first_looks = FirstLooks()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: list[Header] = scope["headers"]
        if not is_grpc(headers):
            # "gRPC servers SHOULD respond with HTTP status of 415": PROTOCOL-HTTP2.md.
            await send({"type": "http.response.start", "status": 415, "headers": []})
            await send(_LAST_BODY)
            return
        answer = _Answer(send)
        path = scope["path"]
        try:
            method = self._methods.get(scope["raw_path"])
            if method is None or scope["query_string"]:
                asked = scope["raw_path"].decode("latin-1")
                raise RpcFailure(Code.UNIMPLEMENTED, f"unknown method {asked}")
            if scope["method"] != "POST":
                raise RpcFailure(Code.UNIMPLEMENTED, f"expected POST, got {scope['method']}")
            parsed = parse_headers(headers)
            deadline_s = None
            if parsed.timeout_s is not None:
                deadline_s = time.monotonic() + parsed.timeout_s
            call = Call(path, parsed.metadata, deadline_s, _peer(scope["client"]))
            request = Request(receive, parsed.encoding, self._max_message_bytes, self._first_looks)
            try:
                if isinstance(method, Unary):
                    await self._unary(call, request, answer)
                else:
                    await self._stream(call, request, answer)
            finally:
                request.close()
        except RpcFailure as failure:
            await answer.fail(failure)
        except CallerGone:
            pass
        except Exception:
            if answer.is_broken:  # the caller left while its answer was being sent
                return
            log.exception("%s failed in the transport; this is a bug", path)
            await answer.fail(RpcFailure(Code.INTERNAL, "internal error"))

    async def _unary(self, call: Call, request: "Request", answer: "_Answer") -> None:
        message = await request.first(call.deadline_s)
        request.watch_for_leaving()
        try:
            reply = await self._dispatcher.unary(message, call)
        except asyncio.CancelledError:
            request.raise_if_gone()
            raise
        self._check_size(reply)
        await answer.whole(reply)

    async def _stream(self, call: Call, request: "Request", answer: "_Answer") -> None:
        remaining_s = None if call.deadline_s is None else call.deadline_s - time.monotonic()
        request.read_ahead()
        self.open_streams += 1
        try:
            # Of grpc.aio the core ends a call at its deadline, and here that is us.
            async with (
                asyncio.timeout(remaining_s),
                aclosing(self._dispatcher.stream(request.messages(), call)) as replies,  # type: ignore[type-var]
            ):
                async for reply in replies:
                    self._check_size(reply)
                    await answer.part(reply)
        except TimeoutError:
            raise RpcFailure(Code.DEADLINE_EXCEEDED, "the deadline passed") from None
        except asyncio.CancelledError:
            request.raise_if_gone()
            raise
        finally:
            self.open_streams -= 1
        await answer.end()

    def _check_size(self, reply: bytes) -> None:
        if len(reply) > self._max_message_bytes:
            raise too_large(str(len(reply)), self._max_message_bytes)


class _Answer:
    """The answer side of a call.

    Attributes:
        is_broken: Whether a part could not be sent, since the caller has gone.
    """

    __slots__ = ("_parts", "_parts_bytes", "_send", "_sending", "_started", "is_broken")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._sending: asyncio.Future[None] | None = None
        self.is_broken = False

    async def whole(self, message: bytes) -> None:
        """The only message, and the end."""
        body = {"type": "http.response.body", "body": frame(message), "more_body": False}
        self._started = True
        try:
            await self._send(_START)
            await self._send(body)
            await self._send(_OK)
        except Exception:
            self.is_broken = True
            raise

    async def part(self, message: bytes) -> None:
        """One message of several; waits while the caller reads slower than it is sent to.

        What comes while Envoy takes the parts before it, goes together: each time costs
        more than a small message.
        """
        if not self._started:
            self._started = True
            await self._send(_START)
        part = frame(message)
        self._parts.append(part)
        self._parts_bytes += len(part)
        if self._sending is None:
            self._send_parts()
        while self._parts_bytes > _WAITING_PARTS_BYTES and not self.is_broken:
            await self._sent()
        if self.is_broken:
            raise CallerGone

    def _send_parts(self) -> None:
        body = {"type": "http.response.body", "body": b"".join(self._parts), "more_body": True}
        self._parts.clear()
        self._parts_bytes = 0
        self._sending = asyncio.ensure_future(self._send(body))
        self._sending.add_done_callback(self._parts_are_sent)

    def _parts_are_sent(self, sending: "asyncio.Future[None]") -> None:
        self._sending = None
        if sending.cancelled() or sending.exception() is not None:
            self.is_broken = True
        elif self._parts:
            self._send_parts()

    async def _sent(self) -> None:
        """Wait until what is being sent has been taken, or will not be."""
        if self._sending is not None:
            # Whoever is cancelled here leaves it to end by itself; see the top.
            await asyncio.wait([self._sending])
            await asyncio.sleep(0)  # what waited is sent after it

    async def end(self) -> None:
        """The end after all parts."""
        await self._finish(_OK["headers"])

    async def fail(self, failure: RpcFailure) -> None:
        """The end of a call that failed, whatever was sent before."""
        await self._finish(status_trailers(failure))

    async def _finish(self, trailers: Any) -> None:
        if not self._started:
            await self._only_trailers(trailers)
            return
        while self._sending is not None:
            await self._sent()
        if self.is_broken:  # nobody is left to tell
            return
        await self._send(_LAST_BODY)
        await self._send({"type": "http.response.trailers", "headers": trailers})

    async def _only_trailers(self, trailers: Any) -> None:
        headers = [*_HEADERS, *trailers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(_LAST_BODY)


def _peer(client: tuple[str, int] | None) -> str:
    """The caller as gRPC writes addresses."""
    if client is None:
        return ""
    host, port = client
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
