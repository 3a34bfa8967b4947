"""Requests to messages, and answers that contradict themselves."""

from typing import Any

import numpy as np
import pytest

from convscope_client import FeatureRequest, InvalidRequest, ServerError
from convscope_client.feature_request import Features, feature_requests
from convscope_client.messages import classify_request, classify_result, model
from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb


def request(features: Features | None = None, **changes: Any) -> pb.ClassifyRequest:
    settings: dict[str, Any] = {
        "top_k": 5,
        "model": "",
        "version": "",
        "include_scores": False,
        "include_probabilities": False,
        "request_id": "",
        "priority": 0,
    }
    return classify_request([b"file"], features=features, **(settings | changes))


def feature_map(**fields: Any) -> pb.ClassifyResponse:
    defaults: dict[str, Any] = {
        "layer": "conv1",
        "values": to_tensor(np.zeros((2, 3, 4, 4), np.float32)),
    }
    return pb.ClassifyResponse(feature_maps=[pb.FeatureMap(**(defaults | fields))])


@pytest.mark.parametrize(
    ("features", "requests"),
    [
        (None, []),
        ("conv1", [FeatureRequest(["conv1"])]),
        (["conv*", "fc1"], [FeatureRequest(["conv*", "fc1"])]),
        (FeatureRequest("all"), [FeatureRequest("all")]),
        (
            [FeatureRequest("fc1"), "conv1", FeatureRequest("pool1"), "conv2"],
            [FeatureRequest(["conv1", "conv2"]), FeatureRequest("fc1"), FeatureRequest("pool1")],
        ),
    ],
)
def test_names_and_requests_may_be_mixed(
    features: Features | None, requests: list[FeatureRequest]
) -> None:
    assert feature_requests(features) == requests


def test_a_feature_request_keeps_its_form() -> None:
    wishes = [
        FeatureRequest("conv1", channels=[3, 1], reduction="mean", dtype="float16"),
        FeatureRequest(("fc1", "fc2"), most_active=4, reduction="max", dtype="uint8"),
        FeatureRequest("all"),
    ]

    first, second, third = request(wishes).feature_maps

    assert list(first.subset.indices) == [3, 1]
    assert (first.reduction, first.dtype) == (pb.REDUCTION_MEAN, pb.DATA_TYPE_FLOAT16)
    assert list(second.layers) == ["fc1", "fc2"]
    assert second.most_active == 4
    assert (second.reduction, second.dtype) == (pb.REDUCTION_MAX, pb.DATA_TYPE_UINT8)
    assert third.WhichOneof("channels") is None
    assert (third.reduction, third.dtype) == (pb.REDUCTION_UNSPECIFIED, pb.DATA_TYPE_FLOAT32)


def test_an_empty_choice_of_channels_is_not_all_of_them() -> None:
    (wish,) = request(FeatureRequest("conv1", channels=[])).feature_maps

    assert wish.WhichOneof("channels") == "subset"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (FeatureRequest([]), "expected at least one layer"),
        (FeatureRequest("a", dtype="int8"), "expected dtype float32, .*, got 'int8'"),  # type: ignore[arg-type]
        (FeatureRequest("a", reduction="sum"), "expected reduction mean, .*, got 'sum'"),  # type: ignore[arg-type]
        (FeatureRequest("a", channels=[0], most_active=1), "channels or most_active, got both"),
        (FeatureRequest("a", channels=[0, -1]), "expected a channel >= 0 .*, got -1"),
        (FeatureRequest("a", most_active=0), "expected most_active >= 1 .*, got 0"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(features: FeatureRequest, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        request(features)


@pytest.mark.parametrize("top_k", [-1, 1 << 32])
def test_top_k_out_of_range_is_refused(top_k: int) -> None:
    with pytest.raises(InvalidRequest, match="expected top_k >= 0 and below"):
        request(top_k=top_k)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (
            feature_map(values=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[5])),
            "cannot be read: expected 20",
        ),
        (
            feature_map(values=to_tensor(np.zeros((2, 3, 4), np.float32))),
            r"got the shape \(2, 3, 4",
        ),
        (feature_map(channels=[0, 1, 2]), "expected 2 x 3 channel numbers for conv1, got 3"),
        (feature_map(scale=[1.0]), "for each of 2 images of conv1, got 1"),
        (
            pb.ClassifyResponse(scores=to_tensor(np.zeros((1, 2), np.float16))),
            "expected scores as float32",
        ),
        (
            pb.ClassifyResponse(probabilities=to_tensor(np.zeros(2, np.float32))),
            r"got float32 \(2,\)",
        ),
    ],
)
def test_an_answer_that_contradicts_itself_is_a_server_error(
    response: pb.ClassifyResponse, message: str
) -> None:
    with pytest.raises(ServerError, match=message):
        classify_result(response)


def test_a_state_of_a_newer_server_is_its_number() -> None:
    assert model(pb.Model(state=pb.ModelState.ValueType(17))).state == "17"
