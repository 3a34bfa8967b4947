"""What a transport promises, with real gRPC clients, over each: a difference is a defect."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from support.servers import TRANSPORTS
from support.wire_methods import MAX_MESSAGE_BYTES, wire_server

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    with wire_server(request.param) as server:
        yield server


@pytest.fixture
def address(server: tuple[str, int]) -> str:
    return server[0]


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address, UNLIMITED) as channel:
        yield channel


def unary(channel: grpc.Channel, name: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary(f"/test.Wire/{name}")


def stream(channel: grpc.Channel, name: str) -> Callable[..., Any]:
    return channel.stream_stream(f"/test.Wire/{name}")


def failure(
    channel: grpc.Channel, name: str, message: bytes, **options: object
) -> tuple[str, str, dict[str, object]]:
    """The code, the message and the trailing metadata that a call ends with."""
    with pytest.raises(grpc.RpcError) as info:
        unary(channel, name)(message, timeout=30, **options)  # type: ignore[arg-type]
    error = info.value
    assert isinstance(error, grpc.Call)
    return error.code().name, error.details() or "", dict(error.trailing_metadata() or ())


def wait_for_ending(channel: grpc.Channel, name: str, ending: bytes) -> None:
    """Return once the call that was sent this message has ended so; never, if it does not."""
    while unary(channel, "Ending")(name.encode(), timeout=30) != ending:
        time.sleep(0.01)


def test_a_call_carries_its_message_both_ways(channel: grpc.Channel) -> None:
    for message in (b"", b"x", bytes(range(256)) * 1000):
        assert unary(channel, "Echo")(message, timeout=30) == message


def test_sixty_four_megabytes_go_both_ways(channel: grpc.Channel) -> None:
    message = os.urandom(MAX_MESSAGE_BYTES)
    assert unary(channel, "Echo")(message, timeout=60) == message


def test_a_message_over_the_limit_is_refused_either_way(channel: grpc.Channel) -> None:
    code, _, _ = failure(channel, "Echo", bytes(MAX_MESSAGE_BYTES + 1))
    assert code == "RESOURCE_EXHAUSTED"
    code, _, _ = failure(channel, "Inflate", str(MAX_MESSAGE_BYTES + 1).encode())
    assert code == "RESOURCE_EXHAUSTED"
    assert len(unary(channel, "Inflate")(str(MAX_MESSAGE_BYTES).encode())) == MAX_MESSAGE_BYTES


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_arrive_as_they_were(
    channel: grpc.Channel, compression: grpc.Compression
) -> None:
    for message in (b"x" * 100, bytes(5_000_000), os.urandom(100_000)):
        assert unary(channel, "Echo")(message, timeout=30, compression=compression) == message


def test_a_compressed_message_over_the_limit_is_refused(channel: grpc.Channel) -> None:
    bomb = bytes(2 * MAX_MESSAGE_BYTES)
    code, _, _ = failure(channel, "Echo", bomb, compression=grpc.Compression.Gzip)
    assert code == "RESOURCE_EXHAUSTED"


def test_errors_carry_code_message_and_trailers(channel: grpc.Channel) -> None:
    assert failure(channel, "Fail", b"")[:2] == ("INVALID_ARGUMENT", "expected this, got that")
    code, details, trailers = failure(channel, "Fail", b"overloaded")
    assert (code, details) == ("RESOURCE_EXHAUSTED", "full, até já: 100 %")
    assert trailers["grpc-retry-pushback-ms"] == "123"
    assert failure(channel, "Absent", b"")[0] == "UNIMPLEMENTED"


def test_a_defect_is_internal_and_the_server_lives_on(channel: grpc.Channel) -> None:
    code, details, _ = failure(channel, "Fail", b"defect")
    assert code == "INTERNAL"
    assert "secret" not in details
    assert unary(channel, "Echo")(b"alive", timeout=30) == b"alive"


def test_a_servicer_sees_metadata_deadline_and_peer(channel: grpc.Channel) -> None:
    metadata = (("key", "value"), ("under_score", "a"), ("twice", "1"), ("twice", "2"))
    seen = json.loads(
        unary(channel, "Describe")(b"", timeout=30, metadata=(*metadata, ("raw-bin", b"\0\xff")))
    )
    assert seen["method"] == "/test.Wire/Describe"
    assert seen["metadata"].pop("user-agent").startswith("grpc-python")
    assert seen["metadata"] == {
        "key": "value",
        "under_score": "a",
        "twice": "2",
        "raw-bin": "00ff",
    }
    # gRPC rounds a timeout up to what its header can hold.
    assert 0 < seen["remaining_s"] < 31
    assert seen["peer"].startswith("ipv4:127.0.0.1:")
    assert json.loads(unary(channel, "Describe")(b""))["remaining_s"] is None


def test_reads_and_writes_of_a_stream_interleave(channel: grpc.Channel) -> None:
    messages: SimpleQueue[bytes | None] = SimpleQueue()
    answers = stream(channel, "Upper")(iter(messages.get, None), timeout=30)
    for message in (b"a", b"", b"b" * 100_000):
        messages.put(message)
        assert next(answers) == message.upper()
    messages.put(None)
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_many_messages_at_once_come_back_in_order(channel: grpc.Channel) -> None:
    messages = [b"%d" % number for number in range(3000)]
    assert list(stream(channel, "Upper")(iter(messages), timeout=60)) == messages


def test_a_stream_without_messages_ends_well(channel: grpc.Channel) -> None:
    assert list(stream(channel, "Upper")(iter([]), timeout=30)) == []


def test_a_stream_that_fails_midway_gives_what_it_had_and_its_status(
    channel: grpc.Channel,
) -> None:
    messages = iter([b"a", b"b", b"stop", b"c"])
    answers = stream(channel, "Upper")(messages, timeout=30)
    assert [next(answers), next(answers)] == [b"A", b"B"]
    with pytest.raises(grpc.RpcError):
        next(answers)
    assert answers.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert answers.details() == "expected anything but stop"


def test_a_cancelled_call_cancels_its_servicer(channel: grpc.Channel) -> None:
    call = unary(channel, "Hold").future(b"cancel unary")
    wait_for_ending(channel, "cancel unary", b"held")
    call.cancel()
    wait_for_ending(channel, "cancel unary", b"cancelled")


def test_a_lost_connection_cancels_its_calls(address: str, channel: grpc.Channel) -> None:
    with grpc.insecure_channel(address) as other:
        call = unary(other, "Hold").future(b"lost")
        wait_for_ending(channel, "lost", b"held")
    wait_for_ending(channel, "lost", b"cancelled")
    assert call.code() is grpc.StatusCode.CANCELLED


def test_a_deadline_cancels_its_servicer(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as info:
        unary(channel, "Hold")(b"late", timeout=0.2)
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for_ending(channel, "late", b"cancelled")


@pytest.mark.parametrize("how", ["cancel", "deadline", "half-closed"])
def test_a_stream_that_is_given_up_cancels_its_servicer(channel: grpc.Channel, how: str) -> None:
    """The server speaks first here; half-closed, the client has nothing more to say."""
    messages: SimpleQueue[bytes | None] = SimpleQueue()
    timeout = 0.5 if how == "deadline" else 60
    answers = stream(channel, "Greet")(iter(messages.get, None), timeout=timeout)
    assert next(answers) == b"hello"
    messages.put(how.encode())
    assert next(answers) == b"held"
    if how == "half-closed":
        messages.put(None)
    if how == "deadline":
        with pytest.raises(grpc.RpcError):
            next(answers)
        assert answers.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        answers.cancel()
    wait_for_ending(channel, how, b"cancelled")
    messages.put(None)


def test_thousands_of_streams_are_open_at_once_on_one_connection(
    channel: grpc.Channel,
) -> None:
    greet: Callable[..., Any] = channel.unary_stream("/test.Wire/Greet")
    names = [f"stream {number}" for number in range(3000)]
    calls = [greet(name.encode(), timeout=120) for name in names]
    assert {next(call) for call in calls} == {b"hello"}
    assert {next(call) for call in calls} == {b"held"}
    assert unary(channel, "Echo")(b"others go on", timeout=30) == b"others go on"
    for call in calls:
        call.cancel()
    for name in names:
        wait_for_ending(channel, name, b"cancelled")


def resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_caller_that_does_not_read_holds_the_servicer_back(
    channel: grpc.Channel, server: tuple[str, int]
) -> None:
    """Megabytes without end, of which one is read: the server must stop making them."""

    def poured() -> int:
        return int(unary(channel, "Poured")(b"", timeout=30))

    before_bytes = resident_bytes(server[1])
    answers = stream(channel, "Pour")(iter([b"go"]), timeout=60)
    assert len(next(answers)) == 1 << 20
    last = -1
    while last != (last := poured()):  # until it stands still
        time.sleep(0.3)
    assert last < 64
    assert resident_bytes(server[1]) - before_bytes < 100 << 20
    answers.cancel()


def test_a_servicer_that_does_not_read_holds_the_caller_back(
    channel: grpc.Channel, server: tuple[str, int]
) -> None:
    sent = 0

    def messages() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(2000):
            sent += 1
            yield bytes(1 << 20)

    answers = stream(channel, "Swallow")(messages(), timeout=120)
    assert next(answers) == str(1 << 20).encode()
    last = -1
    while last != (last := sent):
        time.sleep(0.3)
    assert last < 64
    assert unary(channel, "Echo")(b"others go on", timeout=30) == b"others go on"
    answers.cancel()


def test_clients_may_ping_as_often_as_they_like(address: str) -> None:
    """A server that minds says ENHANCE_YOUR_CALM after three, and ends the stream."""
    options = [
        ("grpc.keepalive_time_ms", 20),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_time_between_pings_ms", 20),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    with grpc.insecure_channel(address, options) as channel:
        messages: SimpleQueue[bytes | None] = SimpleQueue()
        answers = stream(channel, "Upper")(iter(messages.get, None))
        messages.put(b"a")
        assert next(answers) == b"A"
        time.sleep(1.5)
        messages.put(b"b")
        assert next(answers) == b"B"
        messages.put(None)
        assert list(answers) == []
