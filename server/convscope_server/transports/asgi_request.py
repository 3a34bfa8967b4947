"""The request side of a call: messages from ASGI's receive(), and whether the caller is there.

Two habits of pyvoy, which carries this, shape it:
- a receive() that is pending must never be cancelled: pyvoy completes its future
  all the same, and the event loop logs an error for each;
- once a request has ended, receive() returns empty messages at once, for ever,
  until the stream is gone: whoever waits for the caller to leave must ask now
  and then, and not spin.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from convscope_server.status import Code, RpcFailure
from convscope_server.transports.grpc_framing import Frame, FrameDecoder, decompress, only_message

Event = Mapping[str, Any]
Receive = Callable[[], Awaitable[Event]]

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


class FirstLooks:
    """Looks for the callers of all requests that have ended a moment ago, together.

    Most calls are answered before anybody looks, so a timer each would be dear.
    """

    __slots__ = ("_is_set", "_requests")

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._is_set = False

    def add(self, request: "Request") -> None:
        self._requests.append(request)
        if not self._is_set:
            self._is_set = True
            asyncio.get_running_loop().call_later(_FIRST_LOOK_S, self._look)

    def _look(self) -> None:
        self._is_set = False
        requests, self._requests = self._requests, []
        for request in requests:
            request.look()


class CallerGone(Exception):  # noqa: N818 - no error: nobody is left to tell
    """The caller has cancelled, or its connection is lost."""


class Request:
    """The request side of a call: its messages, and whether its caller is still there."""

    __slots__ = (
        *("_closed", "_decoder", "_encoding", "_ended", "_failure", "_first_looks"),
        *("_frames", "_gone", "_is_watched", "_look_s"),
        *("_max_message_bytes", "_receive", "_receiving", "_task", "_timer", "_waiter"),
        "_waiting_bytes",
    )

    def __init__(
        self, receive: Receive, encoding: str, max_message_bytes: int, first_looks: FirstLooks
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
        self._is_watched = False
        self._receiving = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._look_s = _FIRST_LOOK_S

    async def first(self, deadline_s: float | None) -> bytes:
        """The one message of a unary call; what follows it is not looked at.

        Raises:
            CallerGone: The caller left before the message was whole.
            RpcFailure: What came is no message, or it was not whole at the deadline.
        """
        event = await self._receive()
        if event["type"] == "http.request":
            message = only_message(event["body"], self._max_message_bytes)
            if message is not None:
                self._ended = not event["more_body"]
                return message
        self._take(event)
        self._read_on()
        remaining_s = None if deadline_s is None else deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(remaining_s):
                while not self._frames:
                    if self._failure is not None:
                        raise self._failure
                    if self._gone:
                        raise CallerGone
                    if self._ended:
                        raise RpcFailure(Code.UNIMPLEMENTED, "expected one message, got none")
                    await self._wait()
        except TimeoutError:
            raise RpcFailure(
                Code.DEADLINE_EXCEEDED, "the deadline passed before the whole message came"
            ) from None
        return await self._message(self._next())

    async def messages(self) -> AsyncIterator[bytes]:
        """The messages of a stream, as they come."""
        while True:
            while not self._frames:
                if self._failure is not None:
                    raise self._failure
                if self._ended:
                    return
                await self._wait()
            following = self._next()
            self._read_on()
            yield await self._message(following)

    def read_ahead(self) -> None:
        """Read on while the servicer works; cancel it when the caller leaves."""
        self._task = asyncio.current_task()
        self._read_on()

    def watch_for_leaving(self) -> None:
        """Cancel the servicer when the caller leaves; what else comes is not wanted."""
        self._task = asyncio.current_task()
        if not self._ended:
            self._read_on()
        elif not self._is_watched:
            self._look_later()

    def look(self) -> None:
        """Ask whether the caller is still there, and then ask again."""
        if not self._closed:
            self._receive_soon()

    def raise_if_gone(self) -> None:
        """Tell the cancellation of a caller that left from any other."""
        if self._gone:
            raise CallerGone

    def close(self) -> None:
        """The call is over: whatever is still received is nobody's."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def _wait(self) -> None:
        """Until something has come."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _next(self) -> Frame:
        following = self._frames.popleft()
        self._waiting_bytes -= len(following.data)
        return following

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
            self._wake()
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
        for one in decoder.feed(event["body"]):
            self._frames.append(one)
            self._waiting_bytes += len(one.data)
        self._ended = not event["more_body"]
        if self._ended:
            decoder.finish()
        if decoder.failure is not None:
            self._failure, self._ended = decoder.failure, True

    def _look_later(self) -> None:
        self._is_watched = True
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
