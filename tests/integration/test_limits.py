"""Limits of the server as a client on the wire meets them."""

import socket
import struct
from pathlib import Path

import grpc
import pytest
from support.servers import TRANSPORTS, running_server, server_process
from support.tiny_models import random_images, write_repository

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

_SETTINGS_FRAME, _MAX_CONCURRENT_STREAMS = 4, 3  # RFC 9113, sections 6.5 and 6.5.2


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "models")


def http2_settings(address: str) -> dict[int, int]:
    """What a server tells of itself when a connection begins."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        stream = connection.makefile("rb")
        while True:
            header = stream.read(9)
            payload = stream.read(int.from_bytes(header[:3], "big"))
            if header[3] == _SETTINGS_FRAME and not header[4]:
                return dict(struct.iter_unpack(">HI", payload))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_streams_of_a_connection_are_bounded(models: Path, transport: str) -> None:
    with running_server(models, transport, max_concurrent_streams=7) as server:
        assert http2_settings(server.address)[_MAX_CONCURRENT_STREAMS] == 7


def refusal(stub: pb_grpc.ClassifierStub, request: pb.ClassifyRequest) -> str:
    with pytest.raises(grpc.RpcError) as info:
        stub.Classify(request, timeout=30)
    error = info.value
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return error.details() or ""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_rows_beyond_what_the_queue_can_hold_are_invalid(models: Path, transport: str) -> None:
    million = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1_000_000, 4, 4, 3], data=b"")
    with (
        running_server(models, transport, max_queue_rows=10) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.ClassifierStub(channel)
        for pixels in (to_tensor(random_images(11)), million):
            assert "expected at most 10 images" in refusal(stub, pb.ClassifyRequest(pixels=pixels))
        stub.Classify(pb.ClassifyRequest(pixels=to_tensor(random_images(10))), timeout=30)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_priorities_are_levels_from_1_to_9(models: Path, transport: str) -> None:
    request = pb.ClassifyRequest(pixels=to_tensor(random_images(1)))
    with (
        running_server(models, transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.ClassifierStub(channel)
        for request.priority in (0, 1, 9):
            stub.Classify(request, timeout=30)
        request.priority = 10
        assert refusal(stub, request) == "expected a priority from 1 to 9, or 0, got 10"


def test_a_server_starts_from_a_settings_file(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "convscope.toml"
    file.write_text(f'models = "{models}"\nmax_queue_rows = 3\n', encoding="utf-8")
    with (
        server_process("--config", str(file)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        request = pb.ClassifyRequest(pixels=to_tensor(random_images(4)))
        assert "expected at most 3 images" in refusal(pb_grpc.ClassifierStub(channel), request)
