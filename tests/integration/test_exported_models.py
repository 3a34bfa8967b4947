"""Image classifiers as others export them, behind a real server."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image, ImageOps
from support.exported_models import FOREIGN, HEIGHT, WIDTH, Foreign
from support.servers import RunningServer, running_server
from support.tiny_models import write_repository

from convscope_client import Client, InvalidRequest
from convscope_proto.tensors import from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

# Behind a Reshape nobody knows what the axes are: rather no layer than a wrong one.
AXES_LOST = {"shuffled": {"shuffled", "left", "right", "product", "flat"}}
MODELS: dict[str, Foreign] = {name: build() for name, build in FOREIGN.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("models")
    for name, foreign in MODELS.items():
        write_repository(folder, name, model=foreign.model)
    with running_server(folder, max_batch_size=8) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[pb_grpc.ClassifierStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.ClassifierStub(channel)


def close(actual: Any, expected: Any, foreign: Foreign) -> None:
    tolerance = 2e-2 if foreign.dtype == np.float16 else 2e-5
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max())
    )


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_every_feature_map_are_those_of_the_reference(
    name: str, stub: pb_grpc.ClassifierStub
) -> None:
    foreign = MODELS[name]
    images = foreign.images(9, seed=3)  # more than a batch, however large that is
    response = stub.Classify(
        pb.ClassifyRequest(
            model_name=name,
            pixels=to_tensor(images),
            include_scores=True,
            include_probabilities=True,
            feature_maps=[pb.FeatureMapRequest(layers=["all"])],
        ),
        timeout=60,
    )
    expected = foreign.expected(images)
    close(from_tensor(response.scores), expected["scores"], foreign)
    close(from_tensor(response.probabilities), expected["probabilities"], foreign)
    told = {feature_map.layer for feature_map in response.feature_maps}
    assert told == set(foreign.taps) - AXES_LOST.get(name, set())
    for feature_map in response.feature_maps:
        values = from_tensor(feature_map.values)
        close(values, expected[f"layer {feature_map.layer}"], foreign)
    assert response.timings.batch_size <= (foreign.batch_size or 8)


@pytest.mark.parametrize("name", ["convolutions", "channels_last", "half", "fixed_batch_4"])
def test_values_of_the_models_own_input_go_in_untouched(
    name: str, stub: pb_grpc.ClassifierStub
) -> None:
    foreign = MODELS[name]
    images = foreign.images(5)
    own = foreign.own_input(images)
    for layers in ([], ["*1"] if name != "convolutions" else ["relu"]):
        request = pb.ClassifyRequest(model_name=name, pixels=to_tensor(own), include_scores=True)
        if layers:
            request.feature_maps.add(layers=layers)
        response = stub.Classify(request, timeout=60)
        close(from_tensor(response.scores), foreign.expected(images)["scores"], foreign)
        for feature_map in response.feature_maps:
            expected = foreign.expected(images)[f"layer {feature_map.layer}"]
            close(from_tensor(feature_map.values), expected, foreign)


def test_a_picture_becomes_grey_for_a_model_of_one_channel(stub: pb_grpc.ClassifierStub) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (2 * HEIGHT, 2 * WIDTH, 3), dtype=np.uint8))
    file = BytesIO()
    picture.save(file, "PNG")
    seen = ImageOps.fit(picture.convert("L"), (WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    response = stub.Classify(
        pb.ClassifyRequest(
            model_name="grey",
            encoded=pb.EncodedImages(images=[file.getvalue()]),
            include_scores=True,
        ),
        timeout=60,
    )
    expected = MODELS["grey"].expected(np.asarray(seen)[None, :, :, None])["scores"]
    close(from_tensor(response.scores), expected, MODELS["grey"])


def test_an_exact_name_means_itself_whatever_signs_it_holds(server: RunningServer) -> None:
    foreign = MODELS["several_outputs"]
    images = foreign.images(1)
    with Client(server.address) as client:
        name = "relu [1]*?/ü:0"
        result = client.classify(images, model="several_outputs", features=[name, "scor*"])
        assert [feature_map.layer for feature_map in result.feature_maps] == ["scores", name]
        for feature_map in result.feature_maps:
            expected = foreign.expected(images)[f"layer {feature_map.layer}"]
            close(np.asarray(feature_map.values), expected, foreign)
        with pytest.raises(InvalidRequest, match=r"unknown layer 'relu \[2\]\*'"):
            client.classify(images, model="several_outputs", features=["relu [2]*"])


def test_a_foreign_model_is_described_with_its_own_input_and_batch(server: RunningServer) -> None:
    with Client(server.address) as client:
        four = client.describe("fixed_batch_4")
        assert four.max_batch_size == 4
        assert four.input.float_input is not None
        assert (four.input.float_input.dtype, four.input.float_input.layout) == ("float32", "NCHW")
        assert four.input.float_input.shape == (3, HEIGHT, WIDTH)
        assert client.describe("convolutions").max_batch_size == 8
        grey = client.describe("grey").input
        assert (grey.channels, grey.height, grey.width) == (1, HEIGHT, WIDTH)
        np.testing.assert_allclose(grey.mean, [0.13])
        assert client.describe("bgr_bytes").input.float_input is None


def test_the_client_sends_float_and_grey_arrays(server: RunningServer) -> None:
    with Client(server.address) as client:
        for name in ("convolutions", "grey"):
            foreign = MODELS[name]
            images = foreign.images(2)
            expected = foreign.expected(images)["scores"]
            for array in (images, foreign.own_input(images)):
                result = client.classify(array, model=name, include_scores=True)
                assert result.scores is not None
                close(result.scores, expected, foreign)
