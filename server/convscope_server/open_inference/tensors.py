"""Tensors of the protocol: their datatypes, and what is in an input."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server.errors import InvalidRequest, shortened

BYTES = "BYTES"

# The wire is little-endian whatever the machine is.
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    name: np.dtype(code)
    for name, code in (
        *(("BOOL", "?"), ("UINT8", "u1"), ("UINT16", "<u2"), ("UINT32", "<u4"), ("UINT64", "<u8")),
        *(("INT8", "i1"), ("INT16", "<i2"), ("INT32", "<i4"), ("INT64", "<i8")),
        *(("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8")),
    )
}
DATATYPES: Mapping[np.dtype[np.generic], str] = {dtype: name for name, dtype in DTYPES.items()}

# Which typed field holds which datatype; FP16 only comes raw.
_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
# What such a field's values are.
_CONTENTS_DTYPES: Mapping[str, str] = {
    "bool_contents": "?",
    "int_contents": "i4",
    "int64_contents": "i8",
    "uint_contents": "u4",
    "uint64_contents": "u8",
    "fp32_contents": "f4",
    "fp64_contents": "f8",
}
# More than any input here has; few enough that a hostile shape costs nothing.
_MAX_DIMENSIONS = 8
_LENGTH_BYTES = 4
# Typed elements are turned into an array one by one, on the event loop: some 50 ms.
_MAX_TYPED_ELEMENTS = 1 << 20

Array = npt.NDArray[Any]


def checked_shape(tensor: pb.ModelInferRequest.InferInputTensor) -> tuple[int, ...]:
    """An input's shape, (N, …).

    Raises:
        InvalidRequest: It is none that an input can have.
    """
    if not 1 <= len(tensor.shape) <= _MAX_DIMENSIONS:
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected a shape of 1 to {_MAX_DIMENSIONS} dimensions, "
            f"got {len(tensor.shape)}"
        )
    shape = tuple(tensor.shape)
    if min(shape) < 1:
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected at least 1 in every dimension, got {shape}"
        )
    return shape


def from_raw(tensor: pb.ModelInferRequest.InferInputTensor, data: bytes) -> Array | list[bytes]:
    """What an input holds, from its raw bytes: a read-only view of them, or BYTES' elements.

    Raises:
        InvalidRequest: They do not fit its shape, or the datatype is unknown.
    """
    shape = checked_shape(tensor)
    if tensor.datatype == BYTES:
        return _elements(tensor.name, shape, data)
    dtype = dtype_of(tensor)
    # Python's integers, not numpy's: a hostile shape must not overflow to a fitting size.
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(data) != expected_bytes:
        raise InvalidRequest(
            f"input byte size mismatch for input {tensor.name[:100]!r}: expected {expected_bytes} "
            f"for {tensor.datatype} {shape}, got {len(data)}"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def from_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> Array | Sequence[bytes]:
    """What an input holds, from its typed contents.

    Raises:
        InvalidRequest: They do not fit its datatype or shape.
    """
    shape, datatype = checked_shape(tensor), tensor.datatype
    if datatype != BYTES:
        dtype_of(tensor)
    expected = _CONTENTS.get(datatype)
    if expected is None:
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected {datatype} in raw_input_contents, "
            "the protocol has no typed contents for it"
        )
    for field, _ in tensor.contents.ListFields():
        if field.name != expected:
            raise InvalidRequest(
                f"unexpected explicit tensor data for input tensor {tensor.name[:100]!r}: "
                f"expected {expected} for {datatype}, got {field.name}"
            )
    values = getattr(tensor.contents, expected)
    if len(values) != math.prod(shape):
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected {math.prod(shape)} elements in {expected} "
            f"for shape {shape}, got {len(values)}"
        )
    if datatype == BYTES:
        elements: Sequence[bytes] = values
        return elements
    if len(values) > _MAX_TYPED_ELEMENTS:
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected at most {_MAX_TYPED_ELEMENTS} elements as "
            f"typed contents, got {len(values)}: send them as raw_input_contents"
        )
    # In half the time of np.array, which does not know of what they are.
    wide = np.fromiter(values, _CONTENTS_DTYPES[expected], len(values))
    array = wide.astype(DTYPES[datatype])
    if array.dtype.kind in "iu" and not np.array_equal(array, wide):
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected elements in the range of {datatype}, got "
            f"{wide.min()} to {wide.max()}"
        )
    return array.reshape(shape)


def to_bytes(elements: Sequence[bytes]) -> bytes:
    """Elements of BYTES as they go raw over the wire, each after its length."""
    return b"".join(
        len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements
    )


def dtype_of(tensor: pb.ModelInferRequest.InferInputTensor) -> np.dtype[np.generic]:
    """An input's dtype, little-endian.

    Raises:
        InvalidRequest: The datatype is unknown, or BYTES, which are no numbers.
    """
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise InvalidRequest(
            f"input {tensor.name[:100]!r}: expected a datatype of {shortened(DTYPES, 20)} or "
            f"BYTES, got {tensor.datatype[:100]!r}"
        )
    return dtype


def _elements(name: str, shape: tuple[int, ...], data: bytes) -> list[bytes]:
    expected = math.prod(shape)
    # Before they are cut out: a flood of empty ones must cost nothing.
    if expected > len(data) // _LENGTH_BYTES:
        raise InvalidRequest(
            f"input {name[:100]!r}: expected {expected} elements of BYTES, each after its length "
            f"in {_LENGTH_BYTES} bytes, got {len(data)} bytes in all"
        )
    elements = []
    start = 0
    for index in range(expected):
        first = start + _LENGTH_BYTES
        size = int.from_bytes(data[start:first], "little")
        if first > len(data) or size > len(data) - first:
            raise InvalidRequest(
                f"input {name[:100]!r}: element {index} of BYTES says that it has {size} bytes, "
                f"expected at most the {max(0, len(data) - first)} that follow"
            )
        start = first + size
        elements.append(data[first:start])
    if start != len(data):
        raise InvalidRequest(
            f"input {name[:100]!r}: expected {expected} elements of BYTES in {start} bytes, "
            f"got {len(data) - start} more"
        )
    return elements
