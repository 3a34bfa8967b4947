"""numpy arrays to and from Tensor messages, with every bound checked."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope_proto.v1 import classifier_pb2 as pb

# The wire is little-endian whatever the machine is.
_NUMPY_DTYPES: dict[pb.DataType.ValueType, np.dtype[np.generic]] = {
    pb.DATA_TYPE_UINT8: np.dtype("<u1"),
    pb.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}
# More than any tensor here has; few enough that a hostile shape costs nothing.
_MAX_DIMENSIONS = 8

_WIRE_DTYPES = {dtype: wire for wire, dtype in _NUMPY_DTYPES.items()}


class TensorError(ValueError):
    """A Tensor message that contradicts itself, or an array the wire has no type for."""


def to_tensor(array: npt.NDArray[np.generic]) -> pb.Tensor:
    """A Tensor message with a copy of the array's elements in C order.

    Args:
        array: uint8, float16 or float32, any shape.

    Raises:
        TensorError: The array is of another dtype.
    """
    try:
        dtype = _WIRE_DTYPES[array.dtype.newbyteorder("<")]
    except KeyError:
        raise TensorError(
            f"expected an array of uint8, float16 or float32, got {array.dtype}"
        ) from None
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return pb.Tensor(dtype=dtype, shape=array.shape, data=little.tobytes())


def from_tensor(tensor: pb.Tensor) -> npt.NDArray[Any]:
    """The array that a Tensor message holds: a read-only view of its bytes.

    Raises:
        TensorError: The dtype is not set or unknown, or the number of bytes is
            not product(shape) x size of dtype.
    """
    dtype = _NUMPY_DTYPES.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(np.dtype(known).name for known in _NUMPY_DTYPES.values())
        raise TensorError(f"expected a tensor dtype of {known}, got {_dtype_name(tensor.dtype)}")
    if len(tensor.shape) > _MAX_DIMENSIONS:  # before a hostile one is walked through
        raise TensorError(
            f"expected a tensor of at most {_MAX_DIMENSIONS} dimensions, got {len(tensor.shape)}"
        )
    shape, data = tuple(tensor.shape), tensor.data  # each access copies
    # Python's integers, not numpy's: a hostile shape must not overflow to a fitting size.
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(data) != expected_bytes:
        raise TensorError(
            f"expected {expected_bytes} bytes for a tensor of shape {shape} and dtype "
            f"{dtype.name}, got {len(data)}"
        )
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except (ValueError, OverflowError):  # such as (0, 2**63)
        raise TensorError(f"expected a shape that an array can have, got {shape}") from None


def _dtype_name(dtype: int) -> str:
    try:
        return pb.DataType.Name(pb.DataType.ValueType(dtype))
    except ValueError:
        return str(dtype)
