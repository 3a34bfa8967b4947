"""Calls of inference.GRPCInferenceService without generated stubs: one function a call."""

from collections.abc import Iterable
from typing import Any

import grpc

from convscope_proto.inference import grpc_service_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


def load(channel: grpc.Channel, name: str, **fields: object) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=name, **fields)  # type: ignore[arg-type]
    _call(channel, "RepositoryModelLoad", request.SerializeToString())


def unload(channel: grpc.Channel, name: str, **fields: object) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name=name, **fields)  # type: ignore[arg-type]
    _call(channel, "RepositoryModelUnload", request.SerializeToString())


def index(channel: grpc.Channel, repository_name: str = "") -> list[tuple[str, str, str, str]]:
    """Name, version, state and reason of each entry."""
    request = pb.RepositoryIndexRequest(repository_name=repository_name)
    answer = _call(channel, "RepositoryIndex", request.SerializeToString())
    return [
        (model.name, model.version, model.state, model.reason)
        for model in pb.RepositoryIndexResponse.FromString(answer).models
    ]


def infer(channel: grpc.Channel, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    answer = _call(channel, "ModelInfer", request.SerializeToString())
    return pb.ModelInferResponse.FromString(answer)


def stream_infer(
    channel: grpc.Channel, requests: Iterable[pb.ModelInferRequest], **options: object
) -> list[pb.ModelStreamInferResponse]:
    """The answers to a stream of requests."""
    call: Any = channel.stream_stream(f"/{_SERVICE}/ModelStreamInfer")
    messages = (request.SerializeToString() for request in requests)
    answers = call(messages, timeout=60, **options)
    return [pb.ModelStreamInferResponse.FromString(answer) for answer in answers]


def statistics(channel: grpc.Channel, name: str) -> pb.ModelStatistics:
    request = pb.ModelStatisticsRequest(name=name)
    answer = _call(channel, "ModelStatistics", request.SerializeToString())
    (of_one_version,) = pb.ModelStatisticsResponse.FromString(answer).model_stats
    return of_one_version


def register(channel: grpc.Channel, name: str, key: str, size_bytes: int) -> None:
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size_bytes)
    _call(channel, "SystemSharedMemoryRegister", request.SerializeToString())


def set_trace(channel: grpc.Channel, **settings: list[str]) -> None:
    request = pb.TraceSettingRequest()
    for name, values in settings.items():
        request.settings[name].value.extend(values)
    _call(channel, "TraceSetting", request.SerializeToString())


def _call(channel: grpc.Channel, method: str, message: bytes) -> bytes:
    call: Any = channel.unary_unary(f"/{_SERVICE}/{method}")
    answer: bytes = call(message, timeout=60)
    return answer
