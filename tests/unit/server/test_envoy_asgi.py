"""What no well-behaved client does, and what must not happen between Envoy and the application."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.asgi_stream import AsgiStream
from support.wire_methods import METHODS

from convscope_server.dispatch import Dispatcher
from convscope_server.metrics import Metrics
from convscope_server.transports.envoy_asgi import GrpcAsgiApp
from convscope_server.transports.grpc_framing import frame

ECHO, UPPER, HOLD = "/test.Wire/Echo", "/test.Wire/Upper", "/test.Wire/Hold"


def serve(scenario: Callable[[GrpcAsgiApp], Awaitable[None]]) -> None:
    async def run() -> None:
        dispatcher = Dispatcher(METHODS, Metrics(CollectorRegistry()), max_calls=100)
        await scenario(GrpcAsgiApp(dispatcher, max_message_bytes=1000))

    asyncio.run(run())


def answer(stream: AsgiStream, *chunks: bytes) -> AsgiStream:
    """Send a whole request and wait for the whole answer."""

    async def scenario(app: GrpcAsgiApp) -> None:
        stream.write(*chunks, end=True)
        await app(stream.scope, stream.receive, stream.send)

    serve(scenario)
    return stream


def test_an_answer_is_a_frame_and_its_status() -> None:
    stream = answer(AsgiStream(ECHO), frame(b"message"))
    assert stream.body == frame(b"message")
    assert stream.status == (200, {"grpc-status": "0"})
    assert stream.receive_count == 1


@pytest.mark.parametrize(
    "chunks",
    [
        [frame(b"message")[:3], frame(b"message")[3:]],
        [bytes([byte]) for byte in frame(b"message")],
        [b"", frame(b"message"), b""],
    ],
)
def test_a_message_in_pieces_is_one_message(chunks: list[bytes]) -> None:
    stream = answer(AsgiStream(ECHO), *chunks)
    assert (stream.body, stream.status[1]["grpc-status"]) == (frame(b"message"), "0")


def test_messages_in_one_chunk_are_several() -> None:
    stream = answer(AsgiStream(UPPER), frame(b"a") + frame(b"b") + frame(b"c")[:4], frame(b"c")[4:])
    assert stream.body == frame(b"A") + frame(b"B") + frame(b"C")
    assert stream.status == (200, {"grpc-status": "0"})


@pytest.mark.parametrize(
    ("stream", "chunks", "code", "message"),
    [
        (AsgiStream("/test.Wire/Absent"), [], 12, "unknown method /test.Wire/Absent"),
        (AsgiStream(ECHO, method="GET"), [], 12, "expected POST, got GET"),
        (AsgiStream(ECHO), [], 12, "expected one message, got none"),
        (AsgiStream(ECHO), [frame(b"whole")[:7]], 13, "expected a whole message"),
        (AsgiStream(ECHO), [b"\7" + frame(b"")[1:]], 13, "begins with 0 or 1, got 7"),
        (AsgiStream(ECHO), [frame(bytes(1001))], 8, "at most 1000 bytes, got one of 1001"),
        (AsgiStream(ECHO), [b"\1" + frame(b"x")[1:]], 13, "without a grpc-encoding header"),
        (AsgiStream(ECHO, grpc_encoding="br"), [frame(b"")], 12, "got 'br'"),
        (AsgiStream(ECHO, grpc_timeout="soon"), [frame(b"")], 13, "expected a grpc-timeout"),
        (AsgiStream(HOLD, grpc_timeout="1m"), [frame(b"")], 4, "deadline"),
        (AsgiStream("/test.Wire/Fail"), [frame(b"overloaded")], 8, "full, at%C3%A9"),
        (AsgiStream("/test.Wire/Inflate"), [frame(b"1001")], 8, "at most 1000 bytes"),
    ],
)
def test_failures_are_trailers_only(
    stream: AsgiStream, chunks: list[bytes], code: int, message: str
) -> None:
    answer(stream, *chunks)
    assert stream.body == b""
    assert [event["type"] for event in stream.sent] == ["http.response.start", "http.response.body"]
    status, trailers = stream.status
    assert (status, trailers["grpc-status"]) == (200, str(code))
    assert message in trailers["grpc-message"]


def test_what_is_not_grpc_is_415() -> None:
    stream = answer(AsgiStream(ECHO, content_type="application/json"), b"{}")
    assert stream.status[0] == 415


def test_a_stream_that_breaks_after_some_answers_keeps_them() -> None:
    stream = answer(AsgiStream(UPPER), frame(b"a"), b"\7no frame")
    assert stream.body == frame(b"A")
    assert stream.status[1]["grpc-status"] == "13"


@pytest.mark.parametrize("size", [0, 900])
def test_a_compressed_message_is_inflated(size: int) -> None:
    """Larger ones, which a thread inflates, go over the wire in test_transports.py."""
    message = bytes(size)
    stream = AsgiStream(ECHO, grpc_encoding="gzip")
    answer(stream, b"\1" + frame(gzip.compress(message))[1:])
    assert stream.body == frame(message)


def test_a_caller_that_has_sent_all_is_looked_for_without_a_spin() -> None:
    """The first look is after a hundredth of a second, each later one takes twice as long."""
    stream = AsgiStream(HOLD)

    async def scenario(app: GrpcAsgiApp) -> None:
        stream.write(frame(b"looked for"), end=True)
        call = asyncio.ensure_future(app(stream.scope, stream.receive, stream.send))
        await asyncio.sleep(0.3)
        assert 1 <= stream.receive_count <= 8
        stream.leave()
        await call

    serve(scenario)
    assert stream.sent == []


def test_a_caller_that_leaves_in_the_midst_of_its_request_ends_the_call() -> None:
    for path in (ECHO, UPPER):
        stream = AsgiStream(path)

        async def scenario(app: GrpcAsgiApp, stream: AsgiStream = stream) -> None:
            stream.write(frame(b"whole")[:7])
            call = asyncio.ensure_future(app(stream.scope, stream.receive, stream.send))
            await asyncio.sleep(0)
            stream.leave()
            await call

        serve(scenario)
        assert stream.body == b""


def test_a_stream_reads_ahead_only_so_far() -> None:
    """A servicer that takes one message: chunks stay with Envoy once 64 KiB wait."""
    stream = AsgiStream("/test.Wire/Swallow")
    chunk = frame(bytes(1000)) * 20

    async def scenario(app: GrpcAsgiApp) -> None:
        stream.write(*[chunk] * 100)
        call = asyncio.ensure_future(app(stream.scope, stream.receive, stream.send))
        while not stream.body:
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert stream.receive_count == 4  # 20 kB each, one message of the first taken
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    serve(scenario)


class SlowStream(AsgiStream):
    """One whose reader takes a part of the answer only when let."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.takes = asyncio.Semaphore(0)

    async def send(self, event: Mapping[str, Any]) -> None:
        if event.get("more_body"):
            await self.takes.acquire()
        await super().send(event)


def test_answers_that_wait_for_the_reader_go_together_and_are_not_too_many() -> None:
    stream = SlowStream(UPPER)
    messages = [frame(bytes([65 + number % 26]) * 900) for number in range(300)]  # 270 KB

    async def scenario(app: GrpcAsgiApp) -> None:
        stream.write(b"".join(messages), end=True)
        call = asyncio.create_task(app(stream.scope, stream.receive, stream.send))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(stream.sent) == 1  # the headers
        stream.takes.release()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert [event.get("body") for event in stream.sent[1:]] == [messages[0]]
        assert not call.done()
        for _ in range(100):
            stream.takes.release()
        await call

    serve(scenario)
    assert stream.body == b"".join(messages)
    assert stream.status[1]["grpc-status"] == "0"
    parts = [len(event["body"]) for event in stream.sent if event.get("more_body")]
    assert len(parts) < 20
    assert max(parts[1:]) < (64 << 10) + 1000
