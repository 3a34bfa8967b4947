"""gRPC as an ASGI application: what Envoy calls, inside its process, for every request.

Three habits of pyvoy, the server that carries this, shape it:
- a receive() or send() that is pending must never be cancelled: pyvoy completes
  its future all the same, and the event loop logs an error for each;
- once a request has ended, receive() returns empty messages at once, for ever,
  until the stream is gone: whoever waits for the caller to leave must ask now
  and then, and not spin;
- of an answer, only a body that is not the last waits until Envoy has taken it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from convscope_server.call import Call, Unary
from convscope_server.dispatch import Dispatcher
from convscope_server.status import Code, RpcFailure
from convscope_server.transports.grpc_framing import (
    ACCEPTED_ENCODINGS,
    Frame,
    FrameDecoder,
    Header,
    decompress,
    frame,
    is_grpc,
    only_message,
    parse_headers,
    status_trailers,
    too_large,
)

log = logging.getLogger(__name__)

Event = Mapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

# How long after a request's end the caller is first looked for, about, and the
# longest between two looks. Each waits twice as long as the one before, so that a
# call which is given up is noticed before it is twice as old.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.01, 1.0
# Bytes that may wait in a stream of messages while its servicer is busy; beyond
# that Envoy keeps them, and then the caller's flow control.
_READ_AHEAD_BYTES = 64 << 10
# Compressed messages of this size and above are inflated in a thread: 4 KiB can
# become 4 MiB, which takes some 10 ms.
_INFLATE_IN_THREAD_BYTES = 4 << 10

_HEADERS: list[Header] = [
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", ACCEPTED_ENCODINGS),
]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_LAST_BODY = {"type": "http.response.body", "body": b"", "more_body": False}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


class GrpcAsgiApp:
    """Carries calls to the dispatcher, each in the task that ASGI gives it.

    Attributes:
        open_streams: Calls of streaming methods that have not ended.
    """

    def __init__(self, dispatcher: Dispatcher, *, max_message_bytes: int) -> None:
        """Serve the dispatcher's methods; messages over the limit are refused either way."""
        self._dispatcher = dispatcher
        self._max_message_bytes = max_message_bytes
        self.open_streams = 0
        self._first_looks = _FirstLooks()

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
            method = self._dispatcher.methods.get(path)
            if method is None or scope["method"] != "POST":
                raise RpcFailure(Code.UNIMPLEMENTED, f"unknown method {path}")
            parsed = parse_headers(headers)
            deadline_s = None
            if parsed.timeout_s is not None:
                deadline_s = time.monotonic() + parsed.timeout_s
            call = Call(path, parsed.metadata, deadline_s, _peer(scope["client"]))
            request = _Request(receive, parsed.encoding, self._max_message_bytes, self._first_looks)
            try:
                if isinstance(method, Unary):
                    await self._unary(call, request, answer)
                else:
                    await self._stream(call, request, answer)
            finally:
                request.close()
        except RpcFailure as failure:
            await answer.fail(failure)
        except _CallerGone:
            pass
        except Exception:
            if answer.is_broken:  # the caller left while its answer was being sent
                return
            log.exception("%s failed in the transport; this is a bug", path)
            await answer.fail(RpcFailure(Code.INTERNAL, "internal error"))

    async def _unary(self, call: Call, request: "_Request", answer: "_Answer") -> None:
        message = await request.first()
        request.watch_for_leaving()
        try:
            reply = await self._dispatcher.unary(message, call)
        except asyncio.CancelledError:
            request.raise_if_gone()
            raise
        self._check_size(reply)
        await answer.whole(reply)

    async def _stream(self, call: Call, request: "_Request", answer: "_Answer") -> None:
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


class _FirstLooks:
    """Looks for the callers of all requests that have ended a moment ago, together.

    Most calls are answered before anybody looks, so a timer each would be dear.
    """

    __slots__ = ("_is_set", "_requests")

    def __init__(self) -> None:
        self._requests: list[_Request] = []
        self._is_set = False

    def add(self, request: "_Request") -> None:
        self._requests.append(request)
        if not self._is_set:
            self._is_set = True
            asyncio.get_running_loop().call_later(_FIRST_LOOK_S, self._look)

    def _look(self) -> None:
        self._is_set = False
        requests, self._requests = self._requests, []
        for request in requests:
            request.look()


class _CallerGone(Exception):  # noqa: N818 - no error: nobody is left to tell
    """The caller has cancelled, or its connection is lost."""


class _Request:
    """The request side of a call: its messages, and whether its caller is still there."""

    __slots__ = (
        *("_closed", "_decoder", "_encoding", "_ended", "_failure", "_first_looks"),
        *("_frames", "_gone", "_look_s"),
        *("_max_message_bytes", "_receive", "_receiving", "_task", "_timer", "_waiter"),
        "_waiting_bytes",
    )

    def __init__(
        self, receive: Receive, encoding: str, max_message_bytes: int, first_looks: _FirstLooks
    ) -> None:
        self._receive = receive
        self._first_looks = first_looks
        self._encoding = encoding
        self._max_message_bytes = max_message_bytes
        self._decoder: FrameDecoder | None = None
        self._frames: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._failure: RpcFailure | None = None
        self._ended = False
        self._gone = False
        self._closed = False
        self._receiving = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = _FIRST_LOOK_S

    async def first(self) -> bytes:
        """The one message of a unary call."""
        event = await self._receive()
        if event["type"] == "http.request":
            message = only_message(event["body"], self._max_message_bytes)
            if message is not None:
                self._ended = not event["more_body"]
                return message
        self._take(event)
        while not self._frames:
            if self._failure is not None:
                raise self._failure
            if self._gone:
                raise _CallerGone
            if self._ended:
                raise RpcFailure(Code.UNIMPLEMENTED, "expected one message, got none")
            self._take(await self._receive())
        return await self._message(self._frames.popleft())

    async def messages(self) -> AsyncIterator[bytes]:
        """The messages of a stream, as they come."""
        while True:
            while not self._frames:
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    return
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            following = self._frames.popleft()
            self._waiting_bytes -= len(following.data)
            self._read_on()
            yield await self._message(following)

    def read_ahead(self) -> None:
        """Read on while the servicer works; cancel it when the caller leaves."""
        self._task = asyncio.current_task()
        self._read_on()

    def watch_for_leaving(self) -> None:
        """Cancel the servicer when the caller leaves; what else comes is not wanted."""
        self._task = asyncio.current_task()
        if self._ended:
            self._look_later()
        else:
            self._read_on()

    def look(self) -> None:
        """Ask whether the caller is still there, and then ask again."""
        if not self._closed:
            self._receive_soon()

    def raise_if_gone(self) -> None:
        """Tell the cancellation of a caller that left from any other."""
        if self._gone:
            raise _CallerGone

    def close(self) -> None:
        """The call is over: whatever is still received is nobody's."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _read_on(self) -> None:
        if self._receiving or self._ended or self._waiting_bytes > _READ_AHEAD_BYTES:
            return
        self._receive_soon()

    def _receive_soon(self) -> None:
        self._receiving = True
        # pyvoy gives a future, for which this costs nothing.
        asyncio.ensure_future(self._receive()).add_done_callback(self._received)

    def _received(self, future: "asyncio.Future[Event]") -> None:
        self._receiving = False
        if future.cancelled() or self._closed:
            return
        if self._ended:
            # Only one thing can still come.
            if future.result()["type"] == "http.disconnect":
                self._leave()
            else:
                self._look_later()
            return
        self._take(future.result())
        if self._gone:
            self._leave()
            return
        if self._frames or self._ended or self._failure is not None:
            self._wake()
        if self._ended:
            self._look_later()
        else:
            self._read_on()

    def _take(self, event: Event) -> None:
        if event["type"] == "http.disconnect":
            self._gone = self._ended = True
            return
        decoder = self._decoder
        if decoder is None:
            decoder = self._decoder = FrameDecoder(self._max_message_bytes)
        try:
            frames = decoder.feed(event["body"])
            self._ended = not event["more_body"]
            if self._ended:
                decoder.finish()
        except RpcFailure as failure:
            self._failure, self._ended = failure, True
            return
        for one in frames:
            self._frames.append(one)
            self._waiting_bytes += len(one.data)

    def _look_later(self) -> None:
        if self._look_s == _FIRST_LOOK_S:
            self._first_looks.add(self)
        else:
            self._timer = asyncio.get_running_loop().call_later(self._look_s, self.look)
        self._look_s = min(2 * self._look_s, _LONGEST_LOOK_S)

    def _leave(self) -> None:
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _message(self, one: Frame) -> bytes:
        if not one.is_compressed:
            return one.data
        arguments = (one.data, self._encoding, self._max_message_bytes)
        if len(one.data) < _INFLATE_IN_THREAD_BYTES:
            return decompress(*arguments)
        return await asyncio.to_thread(decompress, *arguments)


class _Answer:
    """The answer side of a call.

    Attributes:
        is_broken: Whether a part could not be sent, since the caller has gone.
    """

    __slots__ = ("_send", "_started", "is_broken")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
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
        """One message of several; waits while the caller reads slower than it is sent to."""
        body = {"type": "http.response.body", "body": frame(message), "more_body": True}
        try:
            if not self._started:
                self._started = True
                await self._send(_START)
            sending = asyncio.ensure_future(self._send(body))
            # Whoever is cancelled here leaves it to end by itself; see the top.
            sending.add_done_callback(_hear)
            await asyncio.shield(sending)
        except Exception:
            self.is_broken = True
            raise

    async def end(self) -> None:
        """The end after all parts."""
        if self._started:
            await self._finish(_OK["headers"])
        else:
            await self._only_trailers(_OK["headers"])

    async def fail(self, failure: RpcFailure) -> None:
        """The end of a call that failed, whatever was sent before."""
        trailers = status_trailers(failure)
        if self._started:
            await self._finish(trailers)
        else:
            await self._only_trailers(trailers)

    async def _finish(self, trailers: Any) -> None:
        await self._send(_LAST_BODY)
        await self._send({"type": "http.response.trailers", "headers": trailers})

    async def _only_trailers(self, trailers: Any) -> None:
        headers = [*_HEADERS, *trailers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(_LAST_BODY)


def _hear(sending: "asyncio.Future[None]") -> None:
    if not sending.cancelled():
        sending.exception()


def _peer(client: tuple[str, int] | None) -> str:
    """The caller as gRPC writes addresses."""
    if client is None:
        return ""
    host, port = client
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
