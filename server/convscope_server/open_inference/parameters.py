"""Reads the parameters of requests, inputs and outputs."""

from collections.abc import Mapping
from typing import Any

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server.errors import InvalidRequest

Parameters = Mapping[str, pb.InferParameter]

_INTEGERS = ("int64_param", "uint64_param")


def integer(parameters: Parameters, name: str) -> int | None:
    """A whole number, int64 or uint64; None if it is not given.

    Raises:
        InvalidRequest: It is of another type.
    """
    return _value(parameters, name, _INTEGERS, "a whole number") if name in parameters else None


def text(parameters: Parameters, name: str) -> str | None:
    """A string; None if it is not given.

    Raises:
        InvalidRequest: It is of another type.
    """
    return _value(parameters, name, ("string_param",), "a string") if name in parameters else None


def flag(parameters: Parameters, name: str) -> bool:
    """True or false; false if it is not given.

    Raises:
        InvalidRequest: It is of another type.
    """
    return name in parameters and _value(parameters, name, ("bool_param",), "true or false")


def _value(parameters: Parameters, name: str, kinds: tuple[str, ...], expected: str) -> Any:
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidRequest(f"parameter {name!r}: expected {expected}, got {kind or 'nothing'}")
    return getattr(parameters[name], kind)
