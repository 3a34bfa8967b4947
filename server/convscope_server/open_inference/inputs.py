"""The images of a ModelInferRequest."""

from collections.abc import Sequence

import numpy as np

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server.backend import ImageArray, ModelInfo
from convscope_server.errors import InvalidRequest
from convscope_server.open_inference.parameters import integer, text
from convscope_server.open_inference.tensors import (
    BYTES,
    checked_shape,
    dtype_of,
    from_contents,
    from_raw,
)
from convscope_server.pixels import check_fits, checked_images
from convscope_server.shared_memory import SharedMemory


def input_of(
    request: pb.ModelInferRequest, info: ModelInfo
) -> pb.ModelInferRequest.InferInputTensor:
    """The one input that a model takes.

    Raises:
        InvalidRequest: The request has another one, none or several.
    """
    names = {info.input_name: True}
    if info.native:
        names[info.native.name] = True
    if len(request.inputs) != 1:
        raise InvalidRequest(f"expected 1 input, {' or '.join(names)}, got {len(request.inputs)}")
    tensor = request.inputs[0]
    if tensor.name not in names:
        raise InvalidRequest(
            f"unexpected inference input {tensor.name[:100]!r}: expected {' or '.join(names)}"
        )
    return tensor


def row_count(tensor: pb.ModelInferRequest.InferInputTensor) -> int:
    """How many images an input holds, before any is decoded.

    Raises:
        InvalidRequest: Its shape is none that an input can have.
    """
    shape = checked_shape(tensor)
    if tensor.datatype == BYTES and shape[1:] not in ((), (1,)):
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected shape (N) or (N, 1) of BYTES, a picture file "
            f"each, got {shape}"
        )
    return shape[0]


def size_bytes(request: pb.ModelInferRequest) -> int:
    """What a request's message takes, and its input in shared memory, once images() read it."""
    parameters = request.inputs[0].parameters
    placed = bool(parameters) and bool(text(parameters, "shared_memory_region"))
    region_bytes = integer(parameters, "shared_memory_byte_size") or 0 if placed else 0
    return request.ByteSize() + region_bytes


def images(
    request: pb.ModelInferRequest, info: ModelInfo, memory: SharedMemory, peer: str
) -> ImageArray | Sequence[bytes]:
    """A request's images: pixels as checked_images() has them, or picture files, of BYTES.

    Args:
        request: With one input, as input_of() gives it.
        info: The model.
        memory: Where the input may lie instead.
        peer: The caller's address.

    Raises:
        InvalidRequest: They are not where they should be, or do not fit.
        ServerError: As in SharedMemory.read.
    """
    tensor = request.inputs[0]
    raw = request.raw_input_contents
    region = text(tensor.parameters, "shared_memory_region") if tensor.parameters else None
    typed = tensor.HasField("contents")
    if typed and (raw or region):
        other = "raw_input_contents" if raw else "shared memory"
        raise InvalidRequest(
            f"contents field must not be specified when using {other} for {tensor.name[:100]!r}"
        )
    expected = 0 if region or typed else 1
    if len(raw) != expected:
        missing = "" if raw else f"unable to find data for input tensor {tensor.name[:100]!r}: "
        raise InvalidRequest(f"{missing}expected {expected} raw_input_contents, got {len(raw)}")
    if (typed or region) and tensor.datatype != BYTES:
        # Before a flood of values is looked at one by one, or read from a region.
        check_fits(dtype_of(tensor), checked_shape(tensor), info)
    if typed:
        content = from_contents(tensor)
    elif region:
        offset = integer(tensor.parameters, "shared_memory_offset") or 0
        size = integer(tensor.parameters, "shared_memory_byte_size") or 0
        content = from_raw(tensor, memory.read(region, offset, size, peer=peer))
    else:
        content = from_raw(tensor, raw[0])
    return checked_images(content, info) if isinstance(content, np.ndarray) else content
