"""grpc.health.v1 without its generated code."""

import pytest

from convscope_client import ServerError, ServingStatus
from convscope_client.health import check, deserialize_status, serialize_request


def test_the_bytes_are_those_of_the_protocol() -> None:
    # Written by hand after grpc/health/v1/health.proto: field 1, a string and an enum.
    assert serialize_request("") == b""
    assert serialize_request("tiny") == b"\x0a\x04tiny"
    assert deserialize_status(b"") is ServingStatus.UNKNOWN
    assert deserialize_status(b"\x08\x01") is ServingStatus.SERVING
    assert deserialize_status(b"\x08\x02") is ServingStatus.NOT_SERVING


def test_they_are_those_of_the_generated_code() -> None:
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")

    assert health_pb2.HealthCheckRequest.FromString(serialize_request("tiny")).service == "tiny"
    for status in ServingStatus:
        message = health_pb2.HealthCheckResponse(status=status.value).SerializeToString()
        assert deserialize_status(message) is status


@pytest.mark.parametrize("message", [b"\xff", b"\x08\x63"])
def test_another_answer_is_a_server_error(message: bytes) -> None:
    with pytest.raises(ServerError, match="expected a health status"):
        deserialize_status(message)


def test_check_asks_once(address: str) -> None:
    assert check() is check(address, "tiny") is ServingStatus.SERVING
