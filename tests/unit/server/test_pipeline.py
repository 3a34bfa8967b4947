import asyncio
from collections.abc import AsyncIterator

import pytest

from convscope_server.pipeline import Pipeline


class Caller:
    """A stream of messages that tells how many were read."""

    def __init__(self, *messages: bytes, error: Exception | None = None) -> None:
        self.read = 0
        self._messages = messages
        self._error = error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for message in self._messages:
            self.read += 1
            yield message
        if self._error:
            raise self._error


async def echo(message: bytes) -> bytes:
    return message


def pipeline(max_messages: int = 8, max_bytes: int = 1000) -> Pipeline:
    return Pipeline(echo, max_messages=max_messages, max_bytes=max_bytes)


async def never() -> None:
    await asyncio.Event().wait()


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def numbers(count: int) -> list[bytes]:
    return [bytes([number]) for number in range(count)]


def test_answers_come_in_the_order_of_the_messages_however_they_end() -> None:
    async def scenario() -> None:
        gates = [asyncio.Event() for _ in range(5)]

        async def answer(message: bytes) -> bytes:
            await gates[message[0]].wait()
            return message

        gates[0].set()
        flow = Pipeline(answer, max_messages=8, max_bytes=1000)
        answers: list[bytes] = []

        async def collect() -> None:
            async for message in flow.run(aiter(Caller(*numbers(5))), never()):
                answers.append(message)

        collecting = asyncio.create_task(collect())
        for index in (4, 2, 3):  # the last first
            gates[index].set()
            await turns()
            assert answers == [b"\0"]
        gates[1].set()
        await collecting
        assert answers == numbers(5)

    asyncio.run(scenario())


def test_several_messages_are_on_their_way_at_a_time() -> None:
    async def scenario() -> None:
        running = 0
        most = 0

        async def answer(message: bytes) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await turns(5)
            running -= 1
            return message

        flow = Pipeline(answer, max_messages=8, max_bytes=1000)
        answers = [m async for m in flow.run(aiter(Caller(*numbers(100))), never())]
        assert answers == numbers(100)
        assert most == 8

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("max_messages", "max_bytes", "expected"),
    [(8, 1000, 1 + 8), (100, 10, 1 + 5), (100, 1, 1 + 1)],  # an answer of 1 byte to each of 1
)
def test_a_caller_that_does_not_read_is_soon_not_read_from(
    max_messages: int, max_bytes: int, expected: int
) -> None:
    async def scenario() -> None:
        caller = Caller(*numbers(200))
        flow = pipeline(max_messages, max_bytes).run(aiter(caller), never())
        assert await anext(flow) == b"\0"
        await turns()
        assert caller.read == 1  # the first answer is not known to be taken yet
        assert await anext(flow) == b"\1"
        await turns()
        assert caller.read == expected
        await turns()
        assert caller.read == expected
        assert [message async for message in flow] == numbers(200)[2:]

    asyncio.run(scenario())


def test_what_reading_raises_comes_after_the_answers_before_it() -> None:
    async def scenario() -> None:
        caller = Caller(b"a", b"b", error=ConnectionError("broken"))
        flow = pipeline().run(aiter(caller), never())
        assert [await anext(flow), await anext(flow)] == [b"a", b"b"]
        with pytest.raises(ConnectionError, match="broken"):
            await anext(flow)

    asyncio.run(scenario())


def test_a_stream_without_messages_has_no_answers() -> None:
    async def scenario() -> None:
        assert [message async for message in pipeline().run(aiter(Caller()), never())] == []

    asyncio.run(scenario())


def test_once_told_to_stop_it_reads_no_more_and_answers_what_it_read() -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        silent = asyncio.Event()

        async def messages() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"
            await silent.wait()
            raise AssertionError("nothing more is to be read")

        async def until() -> None:
            await stop.wait()

        answers = []
        async for message in pipeline().run(messages(), until()):
            answers.append(message)
            if message == b"b":
                stop.set()
        assert answers == [b"a", b"b"]

    asyncio.run(scenario())


def test_a_caller_that_goes_cancels_what_is_on_its_way() -> None:
    async def scenario() -> None:
        cancelled = []

        async def answer(message: bytes) -> bytes:
            if message == b"\0":
                return message
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(message)
                raise
            raise AssertionError

        flow = Pipeline(answer, max_messages=4, max_bytes=1000)

        async def read() -> None:
            async for _ in flow.run(aiter(Caller(*numbers(20))), never()):
                pass

        reading = asyncio.create_task(read())
        await turns()
        reading.cancel()
        await asyncio.wait([reading])
        await turns()
        assert sorted(cancelled) == numbers(5)[1:]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
