"""Honest clients at the edge of what HTTP/2 allows: no protection of a proxy may end them."""

from collections import Counter
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from h2.settings import SettingCodes
from support.raw_http2 import frame, raw_connection
from support.servers import TRANSPORTS
from support.wire_methods import wire_server

ECHO, HOLD, UPPER = "/test.Wire/Echo", "/test.Wire/Hold", "/test.Wire/Upper"


@pytest.fixture(scope="module", params=TRANSPORTS)
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    with wire_server(request.param) as (address, _):
        yield address


def test_a_hundred_thousand_tiny_messages_on_one_stream(address: str) -> None:
    """Each in a DATA frame of its own, read while they are sent."""
    count, message = 100_000, frame(b"a")
    with raw_connection(address) as connection:
        stream = connection.start(UPPER)
        for _ in range(count // 100):
            for _ in range(100):
                connection.write(stream, message)
            connection.flush()
            connection.receive_what_came()
        connection.send(stream, b"", ends=True)
        outcome = connection.outcome(stream)
    assert outcome.grpc_status == 0
    assert outcome.body == frame(b"A") * count


@pytest.mark.parametrize("crumbs", [1, 50])
def test_a_reader_that_gives_room_byte_by_byte(address: str, crumbs: int) -> None:
    """As many WINDOW_UPDATE frames as there are bytes, one at a time or fifty."""
    message = bytes(range(250)) * 8
    whole = frame(message)
    with raw_connection(address, grants_windows=False) as connection:
        connection.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1})
        connection.flush()
        stream = connection.start(ECHO)
        connection.send(stream, whole, ends=True)
        outcome = connection.outcomes[stream]
        granted = 1
        while granted < len(whole):
            while len(outcome.body) < granted:
                connection.receive()
                assert not connection.is_closed
            for _ in range(min(crumbs, len(whole) - granted)):
                connection.h2.increment_flow_control_window(1, stream)
                granted += 1
            connection.flush()
        assert connection.outcome(stream).messages == [message]
        assert outcome.grpc_status == 0


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_thousands_who_give_up_leave_their_neighbour_alone(address: str, how: str) -> None:
    """On one connection: Envoy would end it at 500, and its usual codec at 1,000."""
    with grpc.insecure_channel(address) as channel:
        messages: SimpleQueue[bytes | None] = SimpleQueue()
        neighbour: Any = channel.stream_stream(UPPER)
        answers = neighbour(iter(messages.get, None), timeout=120)
        messages.put(b"a")
        assert next(answers) == b"A"
        hold: Callable[..., Any] = channel.unary_unary(HOLD).future
        ends: Counter[grpc.StatusCode] = Counter()
        for _ in range(15):
            timeout = 0.1 if how == "deadline" else 60
            calls = [hold(b"given up", timeout=timeout) for _ in range(200)]
            if how == "cancel":
                for call in calls:
                    call.cancel()
            ends.update(call.code() for call in calls)
        expected = "CANCELLED" if how == "cancel" else "DEADLINE_EXCEEDED"
        assert ends == {grpc.StatusCode[expected]: 3000}
        messages.put(b"b")
        assert next(answers) == b"B"
        messages.put(None)
        assert list(answers) == []
