"""Whatever a ModelInferRequest holds, it is understood or refused in the domain's words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server.errors import InvalidRequest
from convscope_server.open_inference.tensors import (
    BYTES,
    DTYPES,
    from_contents,
    from_raw,
    to_bytes,
)

Input = pb.ModelInferRequest.InferInputTensor
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
SMALL = st.integers(-1, 3)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=20))
def test_elements_come_back_as_they_went(elements: list[bytes]) -> None:
    tensor = Input(name="x", datatype=BYTES, shape=[len(elements)])
    assert from_raw(tensor, to_bytes(elements)) == elements


@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(0, 1000),
)
def test_raw_arrays_come_back_as_they_went(datatype: str, shape: list[int], seed: int) -> None:
    numbers = np.random.default_rng(seed).integers(0, 2, shape)
    array = numbers.astype(DTYPES[datatype])
    tensor = Input(name="x", datatype=datatype, shape=shape)
    np.testing.assert_array_equal(from_raw(tensor, array.tobytes()), array)


@given(
    st.sampled_from([*DTYPES, BYTES, "", "FP8"]),
    st.lists(SMALL | INT64, max_size=10),
    st.binary(max_size=100),
)
def test_raw_bytes_fit_their_shape_or_are_refused(
    datatype: str, shape: list[int], data: bytes
) -> None:
    try:
        content = from_raw(Input(name="x", datatype=datatype, shape=shape), data)
    except InvalidRequest:
        return
    if isinstance(content, np.ndarray):
        assert content.nbytes == len(data)
    else:
        assert to_bytes(content) == data


@given(
    st.sampled_from([*DTYPES, BYTES]),
    st.lists(SMALL | INT64, max_size=3),
    st.builds(
        pb.InferTensorContents,
        bool_contents=st.lists(st.booleans(), max_size=3),
        int_contents=st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=3),
        uint64_contents=st.lists(st.integers(0, (1 << 64) - 1), max_size=3),
        fp32_contents=st.lists(st.floats(width=32), max_size=3),
        bytes_contents=st.lists(st.binary(max_size=3), max_size=3),
    ),
)
def test_typed_contents_keep_every_value_or_are_refused(
    datatype: str, shape: list[int], contents: pb.InferTensorContents
) -> None:
    tensor = Input(name="x", datatype=datatype, shape=shape, contents=contents)
    try:
        content = from_contents(tensor)
    except InvalidRequest:
        return
    (field,) = contents.ListFields()
    values = content.ravel().tolist() if isinstance(content, np.ndarray) else content
    np.testing.assert_array_equal(values, list(field[1]))


def test_a_flood_of_typed_elements_is_refused_before_it_is_read() -> None:
    count = (1 << 20) + 1
    contents = pb.InferTensorContents(bool_contents=[True] * count)
    with pytest.raises(InvalidRequest, match="at most 1048576 elements as typed contents"):
        from_contents(Input(name="x", datatype="BOOL", shape=[count], contents=contents))
