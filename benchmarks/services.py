"""The two services that classify: their methods, and one message of each."""

from dataclasses import dataclass
from typing import Protocol

import grpc
import numpy as np

from convscope_proto.inference import grpc_service_pb2 as inference
from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb


class Message(Protocol):
    """Makes the request to a model for so many images of this height and width."""

    def __call__(self, model: str, rows: int, side: int) -> bytes:
        """The request's bytes."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service.

    Attributes:
        name: What tables call it.
        unary, stream: Its methods' full names.
        message: Makes a request.
    """

    name: str
    unary: str
    stream: str
    message: Message


def _pixels(rows: int, side: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)


def _classify(model: str, rows: int, side: int) -> bytes:
    request = pb.ClassifyRequest(model_name=model, pixels=to_tensor(_pixels(rows, side)), top_k=1)
    return request.SerializeToString()


def _infer(model: str, rows: int, side: int) -> bytes:
    pixels = _pixels(rows, side)
    request = inference.ModelInferRequest(model_name=model, raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="images", datatype="UINT8", shape=pixels.shape)
    return request.SerializeToString()


_CLASSIFIER = "/convscope.v1.Classifier/"
_INFERENCE = "/inference.GRPCInferenceService/"
SERVICES = {
    service.name: service
    for service in (
        Service("Classify", f"{_CLASSIFIER}Classify", f"{_CLASSIFIER}ClassifyStream", _classify),
        Service("ModelInfer", f"{_INFERENCE}ModelInfer", f"{_INFERENCE}ModelStreamInfer", _infer),
    )
}
_WITHIN_S = 60


def answer_bytes(address: str, service: Service, message: bytes) -> int | None:
    """Bytes of a unary answer; None if the server has no such method."""
    with grpc.insecure_channel(address) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(service.unary)
        try:
            return len(ask(message, timeout=_WITHIN_S))
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise


def streamed_answer_bytes(address: str, service: Service, message: bytes) -> int:
    """Bytes of one answer of a stream.

    Raises:
        SystemExit: It is an error.
    """
    with grpc.insecure_channel(address) as channel:
        ask: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(service.stream)
        (answer,) = ask(iter([message]), timeout=_WITHIN_S)
    error = (
        pb.ClassifyStreamResponse.FromString(answer).error.message
        if service.name == "Classify"
        else inference.ModelStreamInferResponse.FromString(answer).error_message
    )
    if error:
        raise SystemExit(f"{service.stream}: {error}")
    return len(answer)
