"""grpc.health.v1 without its generated code.

NOTE: the package grpcio-health-checking is no part of the base install, and a
copy of its health.proto under another path makes protobuf refuse to load the
second one in a process that has both. A request is one string, field 1, and an
answer one enum, field 1: on the wire these are google.protobuf.StringValue and
Int32Value, which every protobuf installation brings.
"""

from enum import Enum

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from convscope_client.channels import channel_options, server_address
from convscope_client.errors import ServerError
from convscope_client.status import from_rpc_error

CHECK_METHOD = "/grpc.health.v1.Health/Check"


class ServingStatus(Enum):
    """What a server says of itself, or of one of its models."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2


def serialize_request(service: str) -> bytes:
    """A HealthCheckRequest's bytes.

    Args:
        service: Empty for the server as a whole, or the name of a service or model.
    """
    message: bytes = StringValue(value=service).SerializeToString()
    return message


def deserialize_status(message: bytes) -> ServingStatus:
    """The status in a HealthCheckResponse's bytes.

    Raises:
        ServerError: The bytes are no such message, or hold a status of a later protocol.
    """
    try:
        return ServingStatus(Int32Value.FromString(message).value)
    except Exception as error:  # DecodeError is not among protobuf's public names in all versions
        raise ServerError(f"expected a health status, got {message[:40]!r}") from error


def check(
    address: str | None = None, service: str = "", *, timeout_s: float = 5.0
) -> ServingStatus:
    """What Client(address).health() returns, over a connection for this one question.

    It needs no numpy, which makes the health check of a container twice as quick.

    Raises:
        ClientError: As Client.health().
    """
    address = server_address(address)
    with grpc.insecure_channel(address, channel_options(address)) as channel:
        ask = channel.unary_unary(
            CHECK_METHOD, request_serializer=serialize_request, response_deserializer=bytes
        )
        try:
            answer: bytes = ask(service, timeout=timeout_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error, address=address, timeout_s=timeout_s) from error
        return deserialize_status(answer)
