import numpy as np
import pytest
from support.tiny_models import activations, random_images, tiny_model

from convscope_server.errors import InvalidRequest
from convscope_server.feature_maps import MapAnswer, MapPlan, MapRequest, Reduction
from convscope_server.model_file import ModelFile

INFO = ModelFile(tiny_model()).info
OUTPUTS = activations(random_images(3))


def only(request: MapRequest) -> MapAnswer:
    (answer,) = MapPlan([request], INFO).answers(OUTPUTS)
    return answer


@pytest.mark.parametrize(
    ("patterns", "layers"),
    [
        (["relu1"], ["relu1"]),
        (["pool1", "conv1"], ["conv1", "pool1"]),
        (["*1"], ["conv1", "relu1", "pool1", "fc1"]),
        (["conv*", "conv1"], ["conv1"]),
        (["all"], ["conv1", "relu1", "pool1", "fc1"]),
    ],
)
def test_layers_by_name_by_pattern_and_all(patterns: list[str], layers: list[str]) -> None:
    plan = MapPlan([MapRequest(tuple(patterns))], INFO)
    assert [layer.name for layer, _ in plan.items] == layers


def test_equal_wishes_share_a_session_whatever_their_order() -> None:
    one = MapPlan([MapRequest(("pool1", "conv1"))], INFO)
    other = MapPlan([MapRequest(("conv1",)), MapRequest(("pool1",), most_active=1)], INFO)
    assert one.tensors == other.tensors == ("conv1", "pool1")


def test_the_last_layer_is_the_scores_and_needs_no_session() -> None:
    assert MapPlan([MapRequest(("fc1",))], INFO).tensors == ()
    np.testing.assert_array_equal(only(MapRequest(("fc1",))).values, OUTPUTS["scores"])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (MapRequest(("conv9",)), "unknown layer 'conv9': expected one of conv1, relu1, pool1, fc1"),
        (MapRequest(("probabilities",)), "unknown layer"),
        (MapRequest(()), "expected at least one layer"),
        (MapRequest(("conv1",), channels=(0, 2)), "conv1: expected channels from 0 to 1, got 2"),
        (MapRequest(("conv1",), most_active=0), "expected at least one channel"),
        (MapRequest(("conv1",), channels=()), "expected at least one channel"),
    ],
)
def test_what_cannot_be_is_refused(request_: MapRequest, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        MapPlan([request_], INFO)


def test_channels_come_in_the_order_asked_for() -> None:
    answer = only(MapRequest(("conv1",), channels=(1, 0)))
    np.testing.assert_array_equal(answer.values, OUTPUTS["conv1"][:, [1, 0]])
    assert answer.channels is not None
    assert answer.channels.tolist() == [[1, 0]] * 3


def test_the_most_active_channel_is_chosen_for_each_image() -> None:
    values = np.zeros((2, 2, 4, 4), np.float32)
    values[0, 1], values[1, 0] = 5, 7
    plan = MapPlan([MapRequest(("relu1",), most_active=1)], INFO)
    (answer,) = plan.answers({"relu1": values})
    assert answer.channels is not None
    assert answer.channels.tolist() == [[1], [0]]
    assert answer.values[:, 0, 0, 0].tolist() == [5, 7]


@pytest.mark.parametrize("reduction", [Reduction.MEAN, Reduction.MAX])
def test_reductions_leave_one_channel(reduction: Reduction) -> None:
    answer = only(MapRequest(("pool1",), reduction=reduction))
    reduce = np.mean if reduction is Reduction.MEAN else np.max
    np.testing.assert_array_equal(answer.values, reduce(OUTPUTS["pool1"], axis=1, keepdims=True))
    assert answer.channels is None


def test_uint8_scales_each_image_and_tells_the_way_back() -> None:
    answer = only(MapRequest(("conv1",), dtype=np.dtype(np.uint8)))
    assert answer.values.dtype == np.uint8
    assert answer.scale is not None
    assert answer.offset is not None
    scale, offset = (x[:, None, None, None] for x in (answer.scale, answer.offset))
    back = offset + scale * answer.values.astype(np.float32)
    half_step = answer.scale.max() / 2 * 1.001
    np.testing.assert_allclose(back, OUTPUTS["conv1"], atol=half_step, rtol=0)
    assert answer.values.min(axis=(1, 2, 3)).tolist() == [0, 0, 0]
    assert answer.values.max(axis=(1, 2, 3)).tolist() == [255, 255, 255]


def test_uint8_of_equal_values_is_zero_not_a_division_by_zero() -> None:
    plan = MapPlan([MapRequest(("relu1",), dtype=np.dtype(np.uint8))], INFO)
    (answer,) = plan.answers({"relu1": np.full((1, 2, 4, 4), 3, np.float32)})
    assert not answer.values.any()
    assert answer.offset is not None
    assert answer.offset.tolist() == [3]


@pytest.mark.parametrize(
    "request_",
    [
        MapRequest(("all",)),
        MapRequest(("conv1", "fc1"), dtype=np.dtype(np.float16)),
        MapRequest(("conv1",), dtype=np.dtype(np.uint8), reduction=Reduction.MAX),
        MapRequest(("relu1",), channels=(1,)),
        MapRequest(("relu1",), most_active=99),
    ],
)
def test_the_size_told_beforehand_is_the_size_that_comes(request_: MapRequest) -> None:
    plan = MapPlan([request_], INFO)
    sent = sum(answer.values.nbytes for answer in plan.answers(OUTPUTS))
    assert plan.value_bytes(3) == sent


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (MapRequest(("conv1",), channels=(0, 1, 0)), "expected each channel once"),
        (MapRequest(("conv1",) * 1025), "at most 1024 names"),
        (MapRequest(("c" * 1025,)), "at most 1024 characters"),
    ],
)
def test_wishes_that_would_take_too_long_are_refused(request_: MapRequest, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        MapPlan([request_], INFO)


def test_activations_are_counted_once_a_layer_and_before_reductions() -> None:
    wishes = [
        MapRequest(("conv1", "pool1"), reduction=Reduction.MEAN),
        MapRequest(("conv1",), most_active=1),
    ]
    plan = MapPlan(wishes, INFO)
    assert plan.activation_bytes(3) == sum(OUTPUTS[name].nbytes for name in ("conv1", "pool1"))
