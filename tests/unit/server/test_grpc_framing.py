"""gRPC's framing against the words of PROTOCOL-HTTP2.md, and against any split into chunks."""

import gzip
import itertools
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope_server.status import Code, RpcFailure
from convscope_server.transports.grpc_framing import (
    Frame,
    FrameDecoder,
    decode_binary,
    decode_message,
    decompress,
    encode_message,
    frame,
    is_grpc,
    parse_headers,
    parse_timeout,
    status_trailers,
)

LIMIT = 1 << 20


def code_of(failing: pytest.ExceptionInfo[RpcFailure]) -> str:
    assert "\n" not in failing.value.message
    return failing.value.code.name


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_messages_come_back_however_they_are_cut_into_chunks(
    messages: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(map(frame, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    decoder = FrameDecoder(LIMIT)
    found: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        found += decoder.feed(wire[start:end])
    decoder.finish()
    assert found == [Frame(False, message) for message in messages]


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_message_that_ends_too_soon_is_told(message: bytes, data: st.DataObject) -> None:
    wire = frame(message)
    decoder = FrameDecoder(LIMIT)
    assert decoder.feed(wire[: data.draw(st.integers(1, len(wire) - 1))]) == []
    decoder.finish()
    assert decoder.failure is not None
    assert decoder.failure.code is Code.INTERNAL
    assert "before the end" in decoder.failure.message


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_failure(noise: bytes) -> None:
    decoder = FrameDecoder(1000)
    frames = decoder.feed(noise)
    decoder.finish()
    whole = b"".join(bytes([one.is_compressed]) + frame(one.data)[1:] for one in frames)
    assert noise.startswith(whole)
    if decoder.failure is None:
        assert whole == noise
    else:
        assert decoder.failure.code in (Code.INTERNAL, Code.RESOURCE_EXHAUSTED)


@given(st.lists(st.integers(0, 40), max_size=6))
def test_frames_before_a_failure_are_heard_however_the_bytes_were_cut(cuts: list[int]) -> None:
    wire = frame(b"one") + frame(b"two") + b"\2noise, which no frame begins with"
    at = [0, *sorted(cuts), len(wire)]
    decoder = FrameDecoder(LIMIT)
    found: list[Frame] = []
    for start, end in itertools.pairwise(at):
        if decoder.failure is None:
            found += decoder.feed(wire[start:end])
    assert found == [Frame(False, b"one"), Frame(False, b"two")]
    assert decoder.failure is not None
    assert "begins with 0 or 1, got 2" in decoder.failure.message


def test_a_prefix_tells_what_is_too_large_before_it_comes() -> None:
    decoder = FrameDecoder(100)
    assert decoder.feed(frame(bytes(100))) == [Frame(False, bytes(100))]
    assert decoder.feed(b"\0" + (101).to_bytes(4, "big")) == []
    assert decoder.failure is not None
    assert decoder.failure.code is Code.RESOURCE_EXHAUSTED
    assert "at most 100 bytes, got one of 101" in decoder.failure.message


def test_a_flag_that_is_neither_0_nor_1_is_no_frame() -> None:
    decoder = FrameDecoder(100)
    assert decoder.feed(b"POST / HTTP/1.1") == []
    assert decoder.failure is not None
    assert decoder.failure.code is Code.INTERNAL
    assert "begins with 0 or 1, got 80" in decoder.failure.message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"10S", 10),
        (b"250m", 0.25),
        (b"5000u", 0.005),
        (b"99999999n", 0.099999999),
        (b"0n", 0),
    ],
)
def test_timeouts_in_every_unit(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"123456789S", b"1.5S", b"1S "])
def test_other_timeouts_are_refused(value: bytes) -> None:
    with pytest.raises(RpcFailure, match="expected a grpc-timeout") as info:
        parse_timeout(value)
    assert code_of(info) == "INTERNAL"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@given(message=st.binary(max_size=5000))
def test_what_was_compressed_comes_back(encoding: str, message: bytes) -> None:
    data = gzip.compress(message) if encoding == "gzip" else zlib.compress(message)
    assert decompress(data, encoding, LIMIT) == message


def test_no_bytes_are_an_empty_message_in_any_encoding() -> None:
    assert decompress(b"", "gzip", LIMIT) == decompress(b"", "deflate", LIMIT) == b""


def test_a_bomb_is_not_inflated_beyond_the_limit() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert len(bomb) < LIMIT
    with pytest.raises(RpcFailure, match="at most 1048576 bytes, got one of more") as info:
        decompress(bomb, "gzip", LIMIT)
    assert code_of(info) == "RESOURCE_EXHAUSTED"
    assert decompress(gzip.compress(bytes(LIMIT)), "gzip", LIMIT) == bytes(LIMIT)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"no gzip", "gzip"),
        (zlib.compress(b"x"), "gzip"),
        (gzip.compress(b"x" * 100)[:-9], "gzip"),
        (gzip.compress(b"x") + b"y", "gzip"),
        (b"x", "identity"),
    ],
)
def test_what_is_not_compressed_as_it_says_is_refused(data: bytes, encoding: str) -> None:
    with pytest.raises(RpcFailure) as info:
        decompress(data, encoding, LIMIT)
    assert code_of(info) == "INTERNAL"


@given(st.text(max_size=100))
def test_status_messages_are_printable_ascii_and_come_back(text: str) -> None:
    wire = encode_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in wire)
    assert wire == wire.strip(b" ")  # RFC 9113, section 8.2.1
    assert decode_message(wire) == text.encode(errors="replace").decode()


def test_a_status_message_as_the_protocol_writes_it() -> None:
    assert encode_message("expected 100 %, got\nné") == b"expected 100 %25, got%0An%C3%A9"


def test_trailers_hold_code_message_and_the_failures_own() -> None:
    failure = RpcFailure(Code.RESOURCE_EXHAUSTED, "full", retry_after_ms=20)
    assert status_trailers(failure) == [
        (b"grpc-status", b"8"),
        (b"grpc-message", b"full"),
        (b"grpc-retry-pushback-ms", b"20"),
    ]


def test_headers_are_told_from_metadata() -> None:
    parsed = parse_headers(
        [
            (b"host", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"grpc-timeout", b"1500m"),
            (b"grpc-encoding", b"gzip"),
            (b"grpc-accept-encoding", b"identity"),
            (b"user-agent", b"grpc-python"),
            (b"key", b"first"),
            (b"key", b"last"),
            (b"trace-bin", b"AAEC/w"),
        ]
    )
    assert (parsed.timeout_s, parsed.encoding) == (1.5, "gzip")
    assert parsed.metadata == {
        "user-agent": "grpc-python",
        "key": "last",
        "trace-bin": b"\0\1\2\xff",
    }


def test_an_unknown_compression_is_unimplemented_and_told_what_is_known() -> None:
    with pytest.raises(RpcFailure, match="identity, deflate or gzip, got 'snappy'") as info:
        parse_headers([(b"te", b"trailers"), (b"grpc-encoding", b"snappy")])
    assert code_of(info) == "UNIMPLEMENTED"


@pytest.mark.parametrize("headers", [[], [(b"te", b"gzip")]])
def test_a_caller_that_takes_no_trailers_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(RpcFailure, match="expected the header te: trailers") as info:
        parse_headers([(b"content-type", b"application/grpc"), *headers])
    assert code_of(info) == "INTERNAL"


def test_binary_headers_are_padded_or_not_and_joined() -> None:
    assert decode_binary(b"AAEC/w==") == b"\0\1\2\xff"
    assert decode_binary(b"AA, AQI") == b"\0\1\2"
    with pytest.raises(RpcFailure, match="expected base64") as info:
        decode_binary(b"A!")
    assert code_of(info) == "INTERNAL"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_grpc_is_told_by_its_content_type(content_type: bytes, expected: bool) -> None:
    assert is_grpc([(b"content-type", content_type)]) is expected
    assert not is_grpc([])
