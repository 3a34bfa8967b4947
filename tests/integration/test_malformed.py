"""What no gRPC library sends, as bytes over HTTP/2: what grpcio answers is the reference.

Where the two transports differ, docs/architecture.md has the reason.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping

import grpc
import pytest
from support.raw_http2 import Outcome, frame, raw_connection
from support.servers import TRANSPORTS
from support.wire_methods import MAX_MESSAGE_BYTES, wire_server

ECHO, UPPER = "/test.Wire/Echo", "/test.Wire/Upper"
OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 4, 8, 12, 13
GZIP = {"grpc-encoding": "gzip"}
PACKED = gzip.compress(b"hello")
Headers = Mapping[str, str | None]


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def address(transport: str) -> Iterator[str]:
    with wire_server(transport) as (address, _):
        yield address


@pytest.fixture(autouse=True)
def lives_on(address: str) -> Iterator[None]:
    """Whatever came, the server serves others after it."""
    yield
    with grpc.insecure_channel(address) as channel:
        echo: Callable[..., bytes] = channel.unary_unary(ECHO)
        assert echo(b"others", timeout=30) == b"others"


def call(address: str, path: str, body: bytes, headers: Headers | None = None) -> Outcome:
    """A call with a body that goes out whole, and then a half-close.

    The deadline is for what grpc.aio never answers.
    """
    with raw_connection(address) as connection:
        stream = connection.start(path, {"grpc-timeout": "2S", **(headers or {})})
        connection.send(stream, body)
        connection.send(stream, b"", ends=True)
        outcome = connection.outcome(stream)
        assert connection.goaway is None
        assert "\n" not in outcome.grpc_message
        return outcome


@pytest.mark.parametrize("path", [ECHO, UPPER])
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(frame(b"a", size=(1 << 32) - 1), {}, RESOURCE_EXHAUSTED, id="4 GB announced"),
        pytest.param(
            frame(b"a", size=MAX_MESSAGE_BYTES + 1), {}, RESOURCE_EXHAUSTED, id="over the limit"
        ),
        pytest.param(
            frame(gzip.compress(bytes(2 * MAX_MESSAGE_BYTES)), flag=1),
            GZIP,
            RESOURCE_EXHAUSTED,
            id="gzip bomb",
        ),
        pytest.param(
            frame(zlib.compress(bytes(2 * MAX_MESSAGE_BYTES)), flag=1),
            {"grpc-encoding": "deflate"},
            RESOURCE_EXHAUSTED,
            id="deflate bomb",
        ),
        pytest.param(frame(PACKED, flag=1), {}, INTERNAL, id="compressed without encoding"),
        pytest.param(frame(PACKED, flag=1), {"grpc-encoding": "identity"}, INTERNAL, id="identity"),
        pytest.param(frame(b"garbage", flag=1), GZIP, INTERNAL, id="no gzip"),
        pytest.param(frame(PACKED[:-6], flag=1), GZIP, INTERNAL, id="gzip cut off"),
        pytest.param(frame(PACKED[:-8] + bytes(8), flag=1), GZIP, INTERNAL, id="gzip checksum"),
        pytest.param(frame(PACKED + PACKED, flag=1), GZIP, INTERNAL, id="gzip and more"),
        pytest.param(frame(b"a"), {"grpc-timeout": "soon"}, INTERNAL, id="timeout without number"),
        pytest.param(frame(b"a"), {"grpc-timeout": "10"}, INTERNAL, id="timeout without unit"),
        pytest.param(frame(b"a"), {"grpc-timeout": "-1S"}, INTERNAL, id="timeout below zero"),
        pytest.param(frame(b"a"), {"grpc-timeout": ""}, INTERNAL, id="timeout empty"),
        pytest.param(frame(b"a"), {"x-bin": "!!!"}, INTERNAL, id="binary header"),
    ],
)
def test_malformed_calls_end_with_the_status_of_grpcio(
    address: str, path: str, body: bytes, headers: Headers, status: int
) -> None:
    outcome = call(address, path, body, headers)
    assert (outcome.http_status, outcome.grpc_status) == (200, status)
    assert outcome.grpc_message
    assert outcome.body == b""


@pytest.mark.parametrize(
    ("path", "answer"), [(ECHO, b"hello"), (UPPER, b"HELLO")], ids=["unary", "stream"]
)
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(frame(b"hello"), {}, id="plain"),
        pytest.param(frame(PACKED, flag=1), GZIP, id="gzip"),
        pytest.param(frame(b"hello"), GZIP, id="gzip allowed and not used"),
        pytest.param(frame(b"hello"), {"grpc-timeout": "99999999H"}, id="eleven thousand years"),
        pytest.param(frame(b"hello"), {"content-type": "application/grpc+proto"}, id="proto"),
        pytest.param(frame(b"hello"), {"content-type": "application/grpc;a=b"}, id="parameter"),
        pytest.param(frame(b"hello"), {"x": "a" * 20_000}, id="20 KB of metadata"),
        pytest.param(frame(b"hello"), {f"x-{n}": "a" for n in range(200)}, id="200 headers"),
    ],
)
def test_unusual_calls_that_are_allowed_are_served(
    address: str, path: str, body: bytes, headers: Headers, answer: bytes
) -> None:
    outcome = call(address, path, body, headers)
    assert (outcome.grpc_status, outcome.messages) == (OK, [answer])


def test_an_empty_compressed_message_is_empty(address: str) -> None:
    assert call(address, ECHO, frame(b"", flag=1), GZIP).messages == [b""]


@pytest.mark.parametrize(
    "path",
    [
        *("/test.Wire/Absent", "/absent", "/", f"{ECHO}/", f"/{ECHO}", f"/x/..{ECHO}"),
        *(f"{ECHO}?a=b", f"{ECHO}%20", "/test.Wire/%45cho", "/test.wire/echo"),
    ],
)
def test_a_path_that_is_not_exactly_a_method_is_unimplemented(address: str, path: str) -> None:
    assert call(address, path, frame(b"a")).grpc_status == UNIMPLEMENTED


@pytest.mark.parametrize(
    "rest", [b"\0", frame(b"b"), frame(b"b")[:-1], frame(b"b", flag=2), frame(b"b", size=1 << 31)]
)
@pytest.mark.parametrize("ends_with", ["data", "half-close", "nothing"])
def test_what_follows_the_message_of_a_unary_call_is_not_looked_at(
    address: str, rest: bytes, ends_with: str
) -> None:
    with raw_connection(address) as connection:
        stream = connection.start(ECHO)
        connection.send(stream, frame(b"a") + rest, ends=ends_with == "data")
        if ends_with == "half-close":
            connection.send(stream, b"", ends=True)
        outcome = connection.outcome(stream)
        assert (outcome.grpc_status, outcome.messages) == (OK, [b"a"])


@pytest.mark.parametrize("together", [True, False])
def test_what_a_stream_said_before_it_broke_is_answered(
    address: str, transport: str, together: bool
) -> None:
    pieces = [frame(b"a") + frame(b"b"), frame(b"c", size=1 << 31)]
    with raw_connection(address) as connection:
        stream = connection.start(UPPER)
        for piece in [b"".join(pieces)] if together else pieces:
            connection.send(stream, piece)
        outcome = connection.outcome(stream)
    assert outcome.grpc_status == RESOURCE_EXHAUSTED
    if transport == "envoy":  # grpc.aio gives up what it has not handed on yet
        assert outcome.messages == [b"A", b"B"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0\0\0", id="half a prefix"),
        pytest.param(frame(b"abc", size=10), id="less than announced"),
        pytest.param(frame(b"abc", flag=2), id="flag 2"),
    ],
)
def test_a_unary_call_without_a_whole_message_ends(
    address: str, transport: str, body: bytes
) -> None:
    """grpc.aio has no answer to these: they wait for their deadline, or flag 2 is read as 0."""
    outcome = call(address, ECHO, body, {"grpc-timeout": "300m"})
    if transport == "envoy":
        assert outcome.grpc_status == (INTERNAL if body else UNIMPLEMENTED)
        assert "expected" in outcome.grpc_message
    else:
        assert outcome.grpc_status in (OK, DEADLINE_EXCEEDED)


@pytest.mark.parametrize("timeout", ["0S", "1n"])
@pytest.mark.parametrize("path", [ECHO, UPPER])
def test_a_call_that_arrives_too_late_is_not_begun(
    address: str, transport: str, path: str, timeout: str
) -> None:
    """grpc.aio may answer before its core looks at the clock."""
    outcome = call(address, path, frame(b"a"), {"grpc-timeout": timeout})
    allowed = {DEADLINE_EXCEEDED} if transport == "envoy" else {DEADLINE_EXCEEDED, OK}
    assert outcome.grpc_status in allowed


@pytest.mark.parametrize("body", [frame(b"a")[:3], frame(b"abc", size=10)])
def test_a_message_that_never_becomes_whole_ends_at_its_deadline(address: str, body: bytes) -> None:
    with raw_connection(address) as connection:
        stream = connection.start(ECHO, {"grpc-timeout": "300m"})
        connection.send(stream, body)
        assert connection.outcome(stream).grpc_status == DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ({"content-type": "application/json"}, "415"),
        ({"content-type": "application/grpc-web"}, "415"),
        ({"content-type": "application/grpcx"}, "415"),
        ({"content-type": None}, "415"),
        ({"grpc-encoding": "snappy"}, "identity, deflate or gzip, got 'snappy'"),
        ({"te": None}, "expected the header te: trailers"),
        ({":method": "GET"}, "expected POST, got GET"),
        ({":method": "PUT"}, "expected POST, got PUT"),
        ({"grpc-timeout": "123456789S"}, "expected a grpc-timeout of up to eight digits"),
    ],
)
def test_headers_that_grpc_does_not_allow(
    address: str, transport: str, headers: Headers, refusal: str
) -> None:
    """Over Envoy by the words of the protocol; grpcio takes some, and resets others."""
    outcome = call(address, ECHO, frame(b"a"), headers)
    if transport == "grpcio":
        is_served = outcome.messages == [b"a"]
        assert is_served or outcome.grpc_status == INTERNAL or outcome.reset is not None
    elif refusal == "415":
        assert (outcome.http_status, outcome.grpc_status) == (415, None)
    else:
        assert outcome.grpc_status in (INTERNAL, UNIMPLEMENTED)
        assert refusal in outcome.grpc_message


def test_headers_without_end_end_their_call_alone(address: str, transport: str) -> None:
    with raw_connection(address) as connection:
        good = connection.start(UPPER)
        connection.send(good, frame(b"a"))
        huge = connection.start(ECHO, {"x": "a" * 200_000})
        outcome = connection.outcome(huge) if transport == "envoy" else None
        connection.send(good, b"", ends=True)
        assert connection.outcome(good).messages == [b"A"]
    if outcome is not None:
        assert outcome.reset is not None


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("path", [ECHO, UPPER])
def test_a_call_that_stops_in_the_midst_of_a_message_is_forgotten(
    address: str, path: str, how: str
) -> None:
    with raw_connection(address) as connection:
        other = connection.start(UPPER)
        streams = [connection.start(path) for _ in range(50)]
        for stream in streams:
            connection.send(stream, frame(bytes(50_000), size=60_000))
        if how == "close":
            return
        for stream in streams:
            connection.reset(stream)
        connection.send(other, frame(b"goes on"), ends=True)
        assert connection.outcome(other).messages == [b"GOES ON"]


def test_bytes_that_are_no_http2_end_their_connection_alone(address: str) -> None:
    for noise in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM?"):
        with raw_connection(address) as connection:
            connection.send_noise(noise)
            while not connection.is_closed:
                connection.receive()
