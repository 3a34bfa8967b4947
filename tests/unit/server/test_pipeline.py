import asyncio
from collections.abc import AsyncIterator

import pytest

from convscope_server.errors import Overloaded
from convscope_server.pipeline import Pipeline, WaitingLine


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


def refusal(reason: str = "queue_full") -> Overloaded:
    return Overloaded("no room", reason=reason, retry_after_ms=1)


def test_those_without_room_try_again_in_order_and_one_at_a_time() -> None:
    async def scenario() -> None:
        line, tried, admitted = WaitingLine(), list[int](), list[int]()
        has_room = asyncio.Event()

        async def attempt(number: int) -> bytes:
            tried.append(number)
            if not has_room.is_set():
                if len(tried) == 5:
                    has_room.set()
                raise refusal()
            admitted.append(number)
            await turns()  # being computed: the others need not wait for that
            return bytes([number])

        async def one(number: int) -> bytes:
            return await line.answer(lambda: attempt(number))

        assert await asyncio.gather(*map(one, range(50))) == numbers(50)
        assert admitted == list(range(50))
        assert tried == [0] * 5 + admitted  # one that is refused tries for all behind it
        assert await one(50) == b"\x32"

    asyncio.run(scenario())


def test_who_is_refused_after_waiting_waits_again() -> None:
    async def scenario() -> None:
        line, tried = WaitingLine(), 0

        async def attempt() -> bytes:
            nonlocal tried
            tried += 1
            await turns(tried % 2 * 3)  # as if a picture were decoded, or not
            if tried < 6:
                raise refusal()
            return b"at last"

        assert await line.answer(attempt) == b"at last"
        assert tried == 6

    asyncio.run(scenario())


def test_who_would_wait_in_vain_does_not_wait_and_holds_nobody_up() -> None:
    async def scenario() -> None:
        line, full = WaitingLine(), True

        async def late() -> bytes:
            raise refusal("queue_full" if full else "predicted_wait")

        async def broken() -> bytes:
            raise ValueError("broken")

        waiting = asyncio.create_task(line.answer(late))
        behind = [asyncio.create_task(line.answer(answer)) for answer in (broken, late)]
        gone = asyncio.create_task(line.answer(late))
        await turns()
        gone.cancel()
        full = False
        with pytest.raises(Overloaded):
            await waiting
        with pytest.raises(ValueError, match="broken"):
            await behind[0]
        with pytest.raises(Overloaded):
            await behind[1]
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await line.answer(lambda: echo(b"next")) == b"next"

    asyncio.run(scenario())
