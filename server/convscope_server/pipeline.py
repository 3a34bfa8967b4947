"""Answers the messages of a stream several at a time, in their order, in bounded memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from convscope_server.errors import NotReady, Overloaded
from convscope_server.lifecycle import Lifecycle

# Of one stream, on their way at a time: a batch of single images that runs, one that gathers.
STREAM_MESSAGES = 128


class Pipeline:
    """One stream's messages on their way from the caller and back.

    The next message is read while fewer than max_messages are on their way, and while
    these, with answers as large as the largest so far, take less than max_bytes. So a
    caller that does not read its answers is soon not read from either.
    """

    def __init__(
        self,
        answer: Callable[[bytes], Coroutine[Any, Any, bytes]],
        *,
        max_messages: int,
        max_bytes: int,
    ) -> None:
        """Answer each message by this; what it raises ends the stream."""
        self._answer = answer
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._on_way = 0
        self._message_bytes = 0
        # Unknown before the first answer: until then only one message is on its way.
        self._largest_answer_bytes: int | None = None
        self._delivered = asyncio.Event()

    async def run(
        self, messages: AsyncIterator[bytes], until: Awaitable[None]
    ) -> AsyncIterator[bytes]:
        """The answers, one a message.

        Args:
            messages: The caller's.
            until: Once this is done no more is read; what was read is still answered.

        Raises:
            Exception: What reading or answering raised, after the answers before it.
        """
        tasks: asyncio.Queue[tuple[asyncio.Task[bytes], int] | None] = asyncio.Queue()
        reading = asyncio.ensure_future(self._read(messages, tasks))
        stopping = asyncio.ensure_future(until)
        stopping.add_done_callback(lambda _: reading.cancel())
        try:
            while entry := await tasks.get():
                task, size_bytes = entry
                answer = await task
                self._largest_answer_bytes = max(self._largest_answer_bytes or 0, len(answer))
                yield answer  # comes back when the transport has taken it
                self._on_way -= 1
                self._message_bytes -= size_bytes
                self._delivered.set()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.result()
        finally:
            stopping.cancel()
            reading.cancel()
            while not tasks.empty():
                if entry := tasks.get_nowait():
                    entry[0].cancel()

    async def _read(
        self,
        messages: AsyncIterator[bytes],
        tasks: "asyncio.Queue[tuple[asyncio.Task[bytes], int] | None]",
    ) -> None:
        try:
            async for message in messages:
                task = asyncio.create_task(self._answer(message))
                tasks.put_nowait((task, len(message)))
                self._on_way += 1
                self._message_bytes += len(message)
                while self._is_full():
                    self._delivered.clear()
                    await self._delivered.wait()
        finally:
            tasks.put_nowait(None)

    def _is_full(self) -> bool:
        if not self._on_way:  # a message larger than all that is allowed passes alone
            return False
        if self._largest_answer_bytes is None or self._on_way >= self._max_messages:
            return True
        expected_bytes = self._message_bytes + self._on_way * self._largest_answer_bytes
        return expected_bytes >= self._max_bytes


class WaitingLine:
    """Those requests of one stream for which there was no room: a stream holds back.

    They try again in their order. One that is refused again waits as long as it was told
    to, and those behind it wait with it: a hundred that each tried would leave the
    processor no time to make room.
    """

    def __init__(self) -> None:
        """Begin with nobody in it."""
        self._turn = asyncio.Lock()

    async def answer(self, attempt: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """Answer as soon as there is room.

        Args:
            attempt: Answers; run again after each time that it raises Overloaded.

        Raises:
            Overloaded: There will be room, but too late for the request.
            Exception: What else attempt raises.
        """
        pause_s = 0.0
        if not self._turn.locked():
            try:
                return await attempt()
            except Overloaded as error:
                pause_s = _pause_s(error)
        while True:
            async with self._turn:
                answering = await _admitted(attempt, pause_s)
            try:
                return await answering
            except Overloaded as error:  # there was room before its pictures were decoded
                pause_s = _pause_s(error)


async def _admitted(
    attempt: Callable[[], Coroutine[Any, Any, bytes]], pause_s: float
) -> asyncio.Task[bytes]:
    """An attempt that was not refused at once."""
    while True:
        await asyncio.sleep(pause_s)
        answering = asyncio.create_task(attempt())
        try:
            await asyncio.sleep(0)  # its first step joins the queue, or is refused
        except asyncio.CancelledError:
            answering.cancel()
            raise
        refusal = answering.done() and not answering.cancelled() and answering.exception()
        if not isinstance(refusal, Overloaded):
            return answering
        pause_s = _pause_s(refusal)


def _pause_s(refusal: Overloaded) -> float:
    if refusal.reason == "predicted_wait":  # waiting does not help
        raise refusal
    return refusal.retry_after_ms / 1000


async def answer_stream(
    messages: AsyncIterator[bytes],
    answer: Callable[[bytes], Coroutine[Any, Any, bytes]],
    lifecycle: Lifecycle,
    *,
    max_bytes: int,
) -> AsyncIterator[bytes]:
    """The answers to a stream's messages, until it or the server ends.

    Raises:
        NotReady: The server stops; what was read of the stream has been answered.
    """
    pipeline = Pipeline(answer, max_messages=STREAM_MESSAGES, max_bytes=max_bytes)
    async for message in pipeline.run(messages, until=lifecycle.no_longer_takes_requests()):
        yield message
    if not lifecycle.takes_requests:
        raise NotReady("the server is shutting down; send the rest to another one")
