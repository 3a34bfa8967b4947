import numpy as np
import numpy.typing as npt
import pytest
from support.tiny_models import random_images, tiny_model

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_server import codec
from convscope_server.errors import InvalidRequest
from convscope_server.feature_maps import Reduction
from convscope_server.model_file import ModelFile

INFO = ModelFile(tiny_model()).info


def test_pixels_arrive_as_they_were_sent() -> None:
    images = random_images(5)
    np.testing.assert_array_equal(codec.pixels(to_tensor(images), INFO), images)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((1, 3, 4, 4), np.uint8),
        np.zeros((1, 5, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.float32),
    ],
)
def test_pixels_of_another_shape_or_dtype_are_refused(array: npt.NDArray[np.generic]) -> None:
    with pytest.raises(InvalidRequest) as info:
        codec.pixels(to_tensor(array), INFO)
    assert "expected pixels of dtype uint8 and shape (N, 4, 4, 3), got" in str(info.value)
    assert f"{array.dtype.name} {array.shape}" in str(info.value)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1, 4, 4, 3], data=b"x"), "expected 48 bytes"),
        (pb.Tensor(shape=[1, 4, 4, 3], data=b"x" * 48), "got DATA_TYPE_UNSPECIFIED"),
        (pb.Tensor(dtype=99, shape=[1, 4, 4, 3], data=b"x" * 48), "got 99"),  # type: ignore[arg-type]
        (pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[1 << 62, 4, 4, 3]), "bytes"),
    ],
)
def test_tensors_that_contradict_themselves_are_refused(tensor: pb.Tensor, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        codec.pixels(tensor, INFO)


@pytest.mark.parametrize(
    "request_",
    [
        pb.ClassifyRequest(),
        pb.ClassifyRequest(encoded=pb.EncodedImages()),
        pb.ClassifyRequest(pixels=pb.Tensor(dtype=pb.DATA_TYPE_UINT8)),
        pb.ClassifyRequest(pixels=pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=[0, 4, 4, 3])),
    ],
)
def test_an_empty_request_is_refused(request_: pb.ClassifyRequest) -> None:
    with pytest.raises(InvalidRequest, match="expected"):
        codec.row_count(request_)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"expected a convscope\.v1\.ClassifyRequest"):
        codec.parse(pb.ClassifyRequest, b"\xff\xff\xff")


def test_map_requests_keep_every_choice() -> None:
    request = pb.ClassifyRequest(
        feature_maps=[
            pb.FeatureMapRequest(layers=["conv1"]),
            pb.FeatureMapRequest(
                layers=["a", "b"],
                most_active=3,
                reduction=pb.REDUCTION_MAX,
                dtype=pb.DATA_TYPE_UINT8,
            ),
            pb.FeatureMapRequest(layers=["c"], subset=pb.ChannelSubset(indices=[2, 0])),
        ]
    )
    plain, active, subset = codec.map_requests(request)
    assert (plain.channels, plain.most_active, plain.dtype.name) == (None, None, "float32")
    assert (active.layers, active.most_active) == (("a", "b"), 3)
    assert (active.reduction, active.dtype.name) == (Reduction.MAX, "uint8")
    assert subset.channels == (2, 0)


def test_an_enum_value_from_the_future_is_refused_not_ignored() -> None:
    request = pb.ClassifyRequest(feature_maps=[pb.FeatureMapRequest(layers=["a"], reduction=9)])  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="reduction 9"):
        codec.map_requests(request)


@pytest.mark.parametrize(
    "entry",
    [
        pb.FeatureMapRequest(layers=["a"] * 1025),
        pb.FeatureMapRequest(subset=pb.ChannelSubset(indices=bytes((1 << 16) + 1))),
    ],
)
def test_an_entry_that_says_too_much_is_refused_before_it_is_copied(
    entry: pb.FeatureMapRequest,
) -> None:
    request = pb.ClassifyRequest(feature_maps=[pb.FeatureMapRequest(layers=["a"]), entry])
    with pytest.raises(InvalidRequest, match=r"feature_maps\[1\]: expected at most 1024 names"):
        codec.map_requests(request)


def test_the_most_probable_classes_come_first_and_ties_keep_their_order() -> None:
    scores = np.array([[1, 3, 2], [5, 5, 5]], np.float32)
    probabilities = np.array([[0.1, 0.7, 0.2], [1 / 3] * 3], np.float32)
    first, second = codec.classifications(scores, probabilities, ["a", "b", "c"], 2)
    assert [(entry.label, entry.score) for entry in first.top] == [("b", 3), ("c", 2)]
    assert [entry.index for entry in second.top] == [0, 1]
    (all_of_them, _) = codec.classifications(scores, probabilities, ["a", "b", "c"], 99)
    assert len(all_of_them.top) == 3
