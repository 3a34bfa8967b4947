import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.dispatch import Dispatcher
from convscope_server.errors import InvalidRequest
from convscope_server.metrics import Metrics
from convscope_server.status import Code, RpcFailure


async def echo(message: bytes, call: Call) -> bytes:
    return message


async def refuse(message: bytes, call: Call) -> bytes:
    raise InvalidRequest("expected this, got that")


async def break_down(message: bytes, call: Call) -> bytes:
    raise KeyError("/secret/path")


async def sleep(message: bytes, call: Call) -> bytes:
    await asyncio.sleep(60)
    return message


async def shout(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    async for message in messages:
        if message == b"stop":
            raise InvalidRequest("expected anything but stop")
        yield message.upper()


METHODS: Methods = {
    "/test.Service/Echo": Unary(echo),
    "/test.Service/Refuse": Unary(refuse),
    "/test.Service/BreakDown": Unary(break_down),
    "/test.Service/Sleep": Unary(sleep),
    "/test.Service/Shout": Stream(shout),
    "/test.Service/Probe": Unary(echo, unlimited=True),
}


class Fixture:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.dispatcher = Dispatcher(METHODS, Metrics(self.registry), max_calls=2)

    async def unary(self, name: str, deadline_s: float | None = None) -> bytes:
        call = Call(f"/test.Service/{name}", deadline_s=deadline_s)
        return await self.dispatcher.unary(b"message", call)

    def handled(self, name: str, code: str) -> float | None:
        labels = {"grpc_service": "test.Service", "grpc_method": name, "grpc_code": code}
        for kind in ("unary", "bidi_stream"):
            value = self.registry.get_sample_value(
                "grpc_server_handled_total", {**labels, "grpc_type": kind}
            )
            if value is not None:
                return value
        return None


def test_an_answer_is_passed_on_and_counted() -> None:
    fixture = Fixture()
    assert asyncio.run(fixture.unary("Echo")) == b"message"
    assert fixture.handled("Echo", "OK") == 1
    assert fixture.dispatcher.in_flight == 0


def test_a_domain_error_becomes_its_status() -> None:
    fixture = Fixture()
    with pytest.raises(RpcFailure, match="expected this, got that") as info:
        asyncio.run(fixture.unary("Refuse"))
    assert info.value.code is Code.INVALID_ARGUMENT
    assert fixture.handled("Refuse", "INVALID_ARGUMENT") == 1
    assert fixture.handled("Refuse", "OK") == 0


def test_more_calls_than_the_limit_are_refused_but_not_probes() -> None:
    async def scenario() -> None:
        fixture = Fixture()
        sleeping = [asyncio.create_task(fixture.unary("Sleep")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RpcFailure, match="expected at most 2 calls at a time") as info:
            await fixture.unary("Echo")
        assert info.value.code is Code.RESOURCE_EXHAUSTED
        assert dict(info.value.trailers)["grpc-retry-pushback-ms"]
        assert await fixture.unary("Probe") == b"message"
        for task in sleeping:
            task.cancel()
        await asyncio.wait(sleeping)
        assert await fixture.unary("Echo") == b"message"

    asyncio.run(scenario())


def test_a_defect_tells_the_caller_nothing_and_the_log_everything(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("convscope_server"), "propagate", True)
    fixture = Fixture()
    with pytest.raises(RpcFailure) as info:
        asyncio.run(fixture.unary("BreakDown"))
    assert info.value.code is Code.INTERNAL
    assert "secret" not in info.value.message
    assert "secret" in caplog.text
    assert fixture.handled("BreakDown", "INTERNAL") == 1


def test_the_deadline_ends_the_servicer() -> None:
    fixture = Fixture()
    with pytest.raises(RpcFailure) as info:
        asyncio.run(fixture.unary("Sleep", deadline_s=time.monotonic() + 0.01))
    assert info.value.code is Code.DEADLINE_EXCEEDED
    assert fixture.handled("Sleep", "DEADLINE_EXCEEDED") == 1
    assert fixture.dispatcher.in_flight == 0


def test_a_cancelled_call_is_counted_as_such() -> None:
    fixture = Fixture()

    async def scenario() -> None:
        task = asyncio.create_task(fixture.unary("Sleep"))
        await asyncio.sleep(0)
        assert fixture.dispatcher.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert fixture.handled("Sleep", "CANCELLED") == 1
    assert fixture.dispatcher.in_flight == 0


def test_a_stream_answers_until_it_fails() -> None:
    fixture = Fixture()

    async def messages() -> AsyncIterator[bytes]:
        for message in (b"a", b"b", b"stop", b"c"):
            yield message

    answers = []

    async def scenario() -> None:
        async for answer in fixture.dispatcher.stream(messages(), Call("/test.Service/Shout")):
            answers.append(answer)

    with pytest.raises(RpcFailure, match="anything but stop"):
        asyncio.run(scenario())
    assert answers == [b"A", b"B"]
    assert fixture.handled("Shout", "INVALID_ARGUMENT") == 1
