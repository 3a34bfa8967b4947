"""Foreign models over the wire: pictures, pixels and floats in, scores and maps out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from support.foreign_models import MODELS
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import write_repository

from convscope_client import Client
from convscope_proto.tensors import from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

HORSE = Path(__file__).parents[2] / "samples" / "horse.jpg"


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("models")
    for name, build in MODELS.items():
        write_repository(folder, name, model=build())
    with running_server(folder, request.param) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[pb_grpc.ClassifierStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.ClassifierStub(channel)


@pytest.mark.parametrize("name", MODELS)
def test_a_picture_is_classified_and_all_layers_are_looked_at(
    server: RunningServer, name: str
) -> None:
    with Client(server.address) as client:
        model = client.describe(name)
        result = client.classify([HORSE] * 5, model=name, top_k=5, features="all")
    assert len(result.classifications) == 5
    assert {score.label for score in result.classifications[0].top} == set("01234")
    assert [found.layer for found in result.feature_maps] == [layer.name for layer in model.layers]
    for layer, found in zip(model.layers, result.feature_maps, strict=True):
        volume = layer.volume
        assert found.values.shape[:2] == (5, volume.depth)
        if found.values.ndim == 4:
            assert found.values.shape[2:] == (volume.height, volume.width)
        # The same picture five times, over as many batches as the model needs.
        np.testing.assert_allclose(found.values, found.values[:1].repeat(5, 0), rtol=1e-5)


def test_a_model_tells_its_own_largest_batch(server: RunningServer) -> None:
    with Client(server.address) as client:
        assert client.describe("residual").max_batch_size == 64
        assert client.describe("fixed_batch_1").max_batch_size == 1
        assert client.describe("fixed_batch_4").max_batch_size == 4
        assert client.describe("grey").input.channels == 1


@pytest.mark.parametrize("name", ["residual", "fixed_batch_1", "half_precision"])
def test_floats_of_the_graphs_own_shape_go_in_untouched(
    stub: pb_grpc.ClassifierStub, name: str
) -> None:
    model = MODELS[name]()
    dtype = np.float16 if name == "half_precision" else np.float32
    own = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(dtype)
    request = pb.ClassifyRequest(model_name=name, pixels=to_tensor(own), include_scores=True)

    response = stub.Classify(request, timeout=30)

    evaluator: Any = ReferenceEvaluator(model)
    input_name = model.graph.input[0].name
    expected = [evaluator.run(None, {input_name: own[row : row + 1]})[0] for row in range(3)]
    tolerance = 2e-2 if name == "half_precision" else 1e-4
    np.testing.assert_allclose(
        from_tensor(response.scores), np.concatenate(expected), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("name", "pixels", "message"),
    [
        (
            "residual",
            np.full((1, 3, 8, 8), np.nan, np.float32),
            "expected finite numbers, got 192 that are NaN or infinite",
        ),
        (
            "residual",
            np.zeros((1, 8, 8, 3), np.float32),
            "expected pixels of dtype uint8 and shape (N, 8, 8, 3), or float32 (N, 3, 8, 8) as "
            "the graph takes it, got float32 (1, 8, 8, 3)",
        ),
        ("grey", np.zeros((1, 9, 9, 3), np.uint8), "shape (N, 9, 9, 1), or float32 (N, 1, 9, 9)"),
        ("unsigned_channels_first", np.zeros((1, 3, 8, 8), np.uint8), "uint8 and shape (N, 8, 8"),
    ],
)
def test_pixels_that_do_not_fit_are_told(
    stub: pb_grpc.ClassifierStub, name: str, pixels: Any, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as info:
        stub.Classify(pb.ClassifyRequest(model_name=name, pixels=to_tensor(pixels)), timeout=30)
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in (info.value.details() or "")
