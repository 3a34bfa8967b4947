"""Both clients against one server on a real wire: the same surface, the same results."""

import asyncio
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image
from unit.clients.fake_classifier import (
    LABELS,
    FakeClassifier,
    probabilities_for,
    scores_for,
    solid,
    values_for,
)

from convscope_client import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    FeatureRequest,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Overloaded,
    ServerError,
    ServingStatus,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from convscope_client.exit_codes import ExitCode
from convscope_client.status import BY_CODE
from convscope_proto.v1 import classifier_pb2 as pb

KINDS = ("blocking", "asyncio")


def ask(kind: str, method: str, *args: Any, address: str | None = None, **kwargs: Any) -> Any:
    """What a method of one of the two clients returns or raises."""
    if kind == "blocking":
        with Client(address) as client:
            return getattr(client, method)(*args, **kwargs)

    async def run() -> Any:
        async with AsyncClient(address) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


def plain(value: Any) -> Any:
    """A result as something that == compares, arrays as their dtype, shape and bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return [type(value), *(plain(getattr(value, field.name)) for field in fields)]
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def test_the_clients_have_one_surface() -> None:
    names = [name for name in vars(Client) if not name.startswith("_")]

    assert names == [name for name in vars(AsyncClient) if not name.startswith("_")]
    for name in names:
        blocking = inspect.signature(getattr(Client, name))
        awaited = inspect.signature(getattr(AsyncClient, name))
        assert blocking == awaited, name
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name)), name


@pytest.mark.parametrize(
    ("method", "args", "kwargs"),
    [
        ("classify", [solid(3)], {}),
        ("classify", [[solid(3), solid(4)]], {"include_scores": True, "top_k": 2}),
        ("classify", [solid(1)], {"include_probabilities": True, "features": ["conv1", "fc1"]}),
        ("features", [solid(1), "all"], {"dtype": "uint8"}),
        ("features", [np.stack([solid(1), solid(2)]), ["pool1"]], {"most_active": 1}),
        ("describe", [], {}),
        ("models", [], {}),
        ("health", [], {}),
    ],
)
@pytest.mark.usefixtures("address")
def test_the_clients_return_the_same(method: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    blocking, awaited = (ask(kind, method, *args, **kwargs) for kind in KINDS)

    assert plain(blocking) == plain(awaited)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("address")
class TestClassify:
    def test_returns_what_the_server_says(self, kind: str) -> None:
        result = ask(
            kind,
            "classify",
            [solid(3), solid(8)],
            top_k=2,
            include_scores=True,
            include_probabilities=True,
            request_id="mine",
        )

        assert (result.model_name, result.model_version, result.request_id) == ("tiny", "3", "mine")
        assert result.labels == ("cat", "ship")
        first = result.classifications[0].top
        assert [(entry.index, entry.label) for entry in first] == [(3, "cat"), (4, "deer")]
        assert [(entry.score, entry.probability) for entry in first] == [(10, 0.5), (9, 0.25)]
        np.testing.assert_array_equal(result.scores, scores_for([3, 8]), strict=True)
        np.testing.assert_array_equal(result.probabilities, probabilities_for([3, 8]), strict=True)
        assert result.feature_maps == ()
        assert dataclasses.astuple(result.timings) == (1, 2, 3, 4, 5)

    def test_sends_what_was_asked_for(self, kind: str, fake: FakeClassifier) -> None:
        features = ["conv1", FeatureRequest("fc1", dtype="float16"), "pool1"]
        ask(kind, "classify", solid(0), model="tiny", version="3", top_k=0, features=features)

        (request,) = fake.requests
        assert (request.model_name, request.model_version) == ("tiny", "3")
        assert request.HasField("top_k")
        assert request.top_k == 0
        assert not request.include_scores
        assert list(request.pixels.shape) == [1, 32, 32, 3]
        assert [list(wish.layers) for wish in request.feature_maps] == [["conv1", "pool1"], ["fc1"]]

    def test_without_top_k_has_no_labels(self, kind: str) -> None:
        result = ask(kind, "classify", solid(3), top_k=0)

        assert result.classifications == result.labels == ()
        assert result.scores is result.probabilities is None

    def test_takes_every_kind_of_image(
        self, kind: str, pictures: list[Path], fake: FakeClassifier
    ) -> None:
        bird, dog, ship = pictures
        with Image.open(ship) as opened:
            images = [bird, str(dog), opened, bird.read_bytes(), memoryview(dog.read_bytes())]
            result = ask(kind, "classify", images)

        assert result.labels == ("bird", "dog", "ship", "bird", "dog")
        # Files travel as they are.
        assert fake.requests[0].encoded.images[1] == dog.read_bytes()

    def test_carries_more_than_four_megabytes_both_ways(
        self, kind: str, fake: FakeClassifier
    ) -> None:
        # gRPC's own limit is 4 MB.
        images = np.stack([solid(1)] * 2_000)
        result = ask(kind, "classify", images, features="conv1", timeout_s=60)

        assert fake.requests[0].ByteSize() > 6_000_000
        assert result.feature_map("conv1").values.nbytes > 16_000_000
        assert len(result.labels) == 2_000

    def test_names_a_picture_that_is_missing(self, kind: str, fake: FakeClassifier) -> None:
        with pytest.raises(InvalidRequest, match=r"got nowhere\.jpg: no such file"):
            ask(kind, "classify", "nowhere.jpg")
        assert not fake.requests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("address")
class TestFeatures:
    def test_come_by_layer_in_the_order_of_the_answer(self, kind: str) -> None:
        maps = ask(kind, "features", [solid(1), solid(2)], "all")

        assert list(maps) == ["conv1", "pool1", "fc1"]
        for layer, feature_map in maps.items():
            np.testing.assert_array_equal(feature_map.values, values_for(layer, 2), strict=True)
            assert feature_map.channels is feature_map.scale is feature_map.offset is None

    def test_tell_which_channels_they_hold(self, kind: str) -> None:
        maps = ask(kind, "features", [solid(1), solid(2)], "fc1", channels=[7, 0])

        np.testing.assert_array_equal(maps["fc1"].channels, [[7, 0], [7, 0]])
        np.testing.assert_array_equal(maps["fc1"].values, values_for("fc1", 2)[:, [7, 0]])

    def test_come_back_from_uint8(self, kind: str) -> None:
        feature_map = ask(kind, "features", [solid(1), solid(2)], "pool1", dtype="uint8")["pool1"]

        assert feature_map.values.dtype == np.uint8
        # offset + scale * value, each image with its own scale.
        activations = feature_map.activations()
        assert activations.dtype == np.float32
        np.testing.assert_array_equal(activations[0], np.full((2, 16, 16), -1 + 0.5 * 4))
        np.testing.assert_array_equal(activations[1], np.full((2, 16, 16), -1 + 1.5 * 4))

    def test_do_not_ask_for_classes(self, kind: str, fake: FakeClassifier) -> None:
        ask(kind, "features", solid(1), ["pool1"], reduction="max", model="tiny", version="3")

        (request,) = fake.requests
        assert request.top_k == 0
        assert (request.model_name, request.model_version) == ("tiny", "3")
        assert request.feature_maps[0].reduction == pb.REDUCTION_MAX


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("address")
class TestModels:
    def test_describe_tells_everything(self, kind: str) -> None:
        model = ask(kind, "describe")

        assert (model.name, model.version, model.state) == ("tiny", "3", "READY")
        assert model.labels == LABELS
        assert (model.input.height, model.input.width, model.input.mean) == (32, 32, (0.5,) * 3)
        assert [layer.name for layer in model.layers] == ["conv1", "pool1", "fc1"]
        conv = model.layers[0]
        assert (conv.kind, conv.weight_count, conv.bias_count) == ("CONV", 54, 2)
        assert (conv.multiply_add_count, conv.notation) == (55_296, "CONV(2, 3x3)")
        assert (conv.volume.depth, conv.volume.activation_count) == (2, 2_048)
        assert (model.accuracy, model.accuracy_data) == (0.25, "nothing, test split")
        assert model.metadata == {"convscope.name": '"tiny"'}

    def test_an_accuracy_that_is_not_told_is_none(self, kind: str, fake: FakeClassifier) -> None:
        fake.model = pb.Model(name="bare")

        assert ask(kind, "describe").accuracy is None

    def test_models_lists_them_and_the_default(self, kind: str) -> None:
        models = ask(kind, "models")

        assert [(model.name, model.state) for model in models] == [
            ("other", "LOADING"),
            ("tiny", "READY"),
        ]
        assert len(models) == 2
        assert models.default_model_name == "tiny"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("address")
class TestHealth:
    @pytest.mark.parametrize("status", ServingStatus)
    def test_returns_the_status(
        self, kind: str, fake: FakeClassifier, status: ServingStatus
    ) -> None:
        fake.health = status.value

        assert ask(kind, "health") is status

    def test_asks_for_a_model_by_name(self, kind: str) -> None:
        assert ask(kind, "health", "tiny") is ServingStatus.SERVING
        with pytest.raises(NotFound):
            ask(kind, "health", "nobody")


# Written out, so that a change of the table is a change here too.
EXPECTED: dict[str, tuple[type[ClientError], ExitCode]] = {
    "CANCELLED": (Unavailable, ExitCode.UNAVAILABLE),
    "UNKNOWN": (ServerError, ExitCode.SERVER_ERROR),
    "INVALID_ARGUMENT": (InvalidRequest, ExitCode.REJECTED),
    "DEADLINE_EXCEEDED": (DeadlineExceeded, ExitCode.DEADLINE),
    "NOT_FOUND": (NotFound, ExitCode.REJECTED),
    "ALREADY_EXISTS": (InvalidRequest, ExitCode.REJECTED),
    "PERMISSION_DENIED": (Unauthenticated, ExitCode.REJECTED),
    "RESOURCE_EXHAUSTED": (LimitExceeded, ExitCode.REJECTED),
    "FAILED_PRECONDITION": (InvalidRequest, ExitCode.REJECTED),
    "ABORTED": (Unavailable, ExitCode.UNAVAILABLE),
    "OUT_OF_RANGE": (InvalidRequest, ExitCode.REJECTED),
    "UNIMPLEMENTED": (Unsupported, ExitCode.REJECTED),
    "INTERNAL": (ServerError, ExitCode.SERVER_ERROR),
    "UNAVAILABLE": (Unavailable, ExitCode.UNAVAILABLE),
    "DATA_LOSS": (ServerError, ExitCode.SERVER_ERROR),
    "UNAUTHENTICATED": (Unauthenticated, ExitCode.REJECTED),
}


def test_the_table_has_every_code() -> None:
    failures = set(grpc.StatusCode) - {grpc.StatusCode.OK}

    assert set(BY_CODE) == failures
    assert set(EXPECTED) == {code.name for code in failures}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("address")
class TestErrors:
    @pytest.mark.parametrize("code", EXPECTED)
    def test_every_code_becomes_its_exception(self, kind: str, code: str) -> None:
        error, exit_code = EXPECTED[code]

        with pytest.raises(ClientError, match=f"the server's own words for {code}") as caught:
            ask(kind, "classify", solid(0), model=f"fail-{code}")

        assert type(caught.value) is error
        assert caught.value.exit_code == exit_code
        assert "\n" not in str(caught.value)

    def test_a_full_queue_says_when_to_come_back(self, kind: str) -> None:
        with pytest.raises(Overloaded, match="the queue is full") as caught:
            ask(kind, "classify", solid(0), model="overloaded")

        assert caught.value.retry_after_s == 0.25
        assert caught.value.is_retryable
        assert caught.value.exit_code == ExitCode.UNAVAILABLE

    def test_a_deadline_that_passes_is_told(self, kind: str, address: str) -> None:
        with pytest.raises(DeadlineExceeded, match=f"no answer from {address} within 0.1 s"):
            ask(kind, "classify", solid(0), model="slow", timeout_s=0.1)

    def test_a_method_that_the_server_lacks_is_told(self, kind: str, fake: FakeClassifier) -> None:
        with pytest.raises(Unsupported, match="expected a convscope server at"):
            ask(kind, "describe", "fail-UNIMPLEMENTED")

    def test_no_server_says_where_and_what_to_do(self, kind: str) -> None:
        with pytest.raises(Unavailable) as caught:
            ask(kind, "models", address="127.0.0.1:9")

        message = str(caught.value)
        assert "expected a server at 127.0.0.1:9, got no connection" in message
        assert "convscope serve" in message
        assert "ipv4" not in message

    def test_an_unknown_name_is_no_connection(self, kind: str) -> None:
        with pytest.raises(Unavailable, match=r"expected a server at nowhere\.invalid:1, got"):
            ask(kind, "models", address="nowhere.invalid:1")

    def test_what_the_wire_cannot_carry_is_refused_here(
        self, kind: str, fake: FakeClassifier
    ) -> None:
        with pytest.raises(InvalidRequest, match="expected top_k >= 0"):
            ask(kind, "classify", solid(0), top_k=-1)
        assert not fake.requests


def test_a_blocking_client_serves_many_threads(address: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Client() as client, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda index: client.classify(solid(index % 10)), range(80)))

    assert [result.classifications[0].top[0].index for result in results] == list(range(10)) * 8


def test_an_asyncio_client_serves_many_tasks(address: str) -> None:
    async def run() -> list[int]:
        async with AsyncClient() as client:
            results = await asyncio.gather(*(client.classify(solid(i % 10)) for i in range(80)))
        return [result.classifications[0].top[0].index for result in results]

    assert asyncio.run(run()) == list(range(10)) * 8


def test_an_asyncio_client_can_be_made_before_the_loop(address: str) -> None:
    client = AsyncClient()

    async def run() -> Any:
        async with client:
            return await client.health()

    assert asyncio.run(run()) is ServingStatus.SERVING
