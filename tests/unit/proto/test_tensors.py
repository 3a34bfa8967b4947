"""The Tensor codec."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convscope_proto.tensors import TensorError, from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb

DTYPES = {
    "uint8": pb.DATA_TYPE_UINT8,
    "float16": pb.DATA_TYPE_FLOAT16,
    "float32": pb.DATA_TYPE_FLOAT32,
}
arrays = st.sampled_from(["|u1", "<f2", "<f4", ">f2", ">f4"]).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0))
)


@given(arrays)
def test_any_array_comes_back_bit_by_bit(array: npt.NDArray[np.generic]) -> None:
    wire = pb.Tensor.FromString(to_tensor(array).SerializeToString())

    back = from_tensor(wire)

    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("<")
    # As bytes, because NaN is not equal to itself.
    assert back.tobytes() == array.astype(back.dtype).tobytes()
    assert wire.dtype == DTYPES[array.dtype.name]


@given(arrays, st.integers(0, 4), st.booleans())
def test_any_view_travels_in_c_order(
    array: npt.NDArray[np.generic], axis: int, is_reversed: bool
) -> None:
    view = np.moveaxis(array, axis % array.ndim, 0) if array.ndim else array
    view = view[::-1] if is_reversed and array.ndim else view

    assert to_tensor(view).data == to_tensor(np.ascontiguousarray(view).reshape(view.shape)).data


def test_bytes_are_little_endian_and_row_major() -> None:
    tensor = to_tensor(np.array([[1.0, 2.0], [3.0, 4.0]], ">f2"))

    assert tensor.data == bytes.fromhex("003c 0040 0042 0044")
    assert list(tensor.shape) == [2, 2]


def test_a_read_array_cannot_be_written() -> None:
    array = from_tensor(to_tensor(np.zeros(3, np.float32)))

    assert not array.flags.writeable


@pytest.mark.parametrize("dtype", ["float64", "int8", "uint16", "int64", "bool", "complex64", "S3"])
def test_a_dtype_that_the_wire_lacks_is_refused(dtype: str) -> None:
    with pytest.raises(TensorError, match=r"expected an array of uint8, float16 or float32, got"):
        to_tensor(np.zeros(2, dtype))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (pb.Tensor(shape=[1], data=b"\0"), "got DATA_TYPE_UNSPECIFIED"),
        (
            pb.Tensor(dtype=pb.DataType.ValueType(77), shape=[1], data=b"\0"),
            "expected a tensor dtype of uint8, float16, float32, got 77",
        ),
        (
            pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[2, 3], data=bytes(23)),
            r"expected 24 bytes for a tensor of shape \(2, 3\) and dtype float32, got 23",
        ),
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[], data=b""), "expected 1 bytes"),
        # Would overflow 64 bits to 0 and fit.
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1 << 32, 1 << 32], data=b""), "got 0"),
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[0, 1 << 63], data=b""), "an array can have"),
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1] * 9, data=b"\0"), "at most 8 dim.*got 9"),
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[(1 << 64) - 1] * 100_000), "got 100000"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor: pb.Tensor, message: str) -> None:
    with pytest.raises(TensorError, match=message):
        from_tensor(tensor)


@given(
    st.sampled_from([0, 1, 2, 3, 9]),
    st.lists(st.integers(0, (1 << 64) - 1), max_size=70),
    st.binary(max_size=64),
)
def test_hostile_tensors_raise_nothing_else(dtype: int, shape: list[int], data: bytes) -> None:
    tensor = pb.Tensor(dtype=pb.DataType.ValueType(dtype), shape=shape, data=data)
    try:
        array = from_tensor(tensor)
    except TensorError:
        return
    assert array.shape == tuple(shape)
    assert array.nbytes == len(data)
