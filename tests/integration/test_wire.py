"""The server as any gRPC client meets it: generated stubs, a real port, ONNX Runtime."""

import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from PIL import Image
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import LABELS, activations, random_images, tiny_model, write_repository

from convscope_proto.tensors import from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc
from convscope_server.errors import StartupError


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    models = write_repository(tmp_path_factory.mktemp("models"))
    write_repository(models, "foreign", "3", tiny_model(metadata=False))
    with running_server(
        models, request.param, default_model="tiny", max_message_bytes=1 << 20
    ) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> pb_grpc.ClassifierStub:
    return pb_grpc.ClassifierStub(channel)


def failure(stub: pb_grpc.ClassifierStub, request: pb.ClassifyRequest) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as info:
        stub.Classify(request, timeout=10)
    error = info.value
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    assert "\n" not in details
    return error.code().name, details


def test_scores_probabilities_and_top_k_are_the_models(stub: pb_grpc.ClassifierStub) -> None:
    images = random_images(5)
    response = stub.Classify(
        pb.ClassifyRequest(
            pixels=to_tensor(images),
            id="abc",
            top_k=2,
            include_scores=True,
            include_probabilities=True,
        ),
        timeout=10,
    )
    expected = activations(images)
    assert (response.model_name, response.model_version, response.id) == ("tiny", "1", "abc")
    np.testing.assert_array_equal(from_tensor(response.scores), expected["scores"])
    np.testing.assert_allclose(
        from_tensor(response.probabilities), expected["probabilities"], rtol=1e-5, atol=1e-30
    )
    best = expected["scores"].argmax(axis=1)
    for classification, index, scores in zip(
        response.classifications, best, expected["scores"], strict=True
    ):
        assert len(classification.top) == 2
        top = classification.top[0]
        assert (top.index, top.label, top.score) == (index, LABELS[index], scores[index])


def test_without_wishes_the_five_best_and_nothing_else(stub: pb_grpc.ClassifierStub) -> None:
    response = stub.Classify(pb.ClassifyRequest(pixels=to_tensor(random_images(1))), timeout=10)
    assert len(response.classifications[0].top) == 3  # all the classes there are
    assert not response.HasField("scores")
    assert not response.feature_maps
    assert response.timings.batch_size >= 1
    assert response.timings.compute_ns > 0


def test_top_k_of_zero_is_none(stub: pb_grpc.ClassifierStub) -> None:
    request = pb.ClassifyRequest(pixels=to_tensor(random_images(1)), top_k=0)
    assert not stub.Classify(request, timeout=10).classifications


def test_feature_maps_of_every_layer_are_exact(stub: pb_grpc.ClassifierStub) -> None:
    images = random_images(7, seed=1)
    response = stub.Classify(
        pb.ClassifyRequest(
            pixels=to_tensor(images), feature_maps=[pb.FeatureMapRequest(layers=["all"])]
        ),
        timeout=10,
    )
    assert [fmap.layer for fmap in response.feature_maps] == ["conv1", "relu1", "pool1", "fc1"]
    for fmap in response.feature_maps:
        np.testing.assert_array_equal(from_tensor(fmap.values), activations(images)[fmap.layer])


def test_feature_maps_in_every_form(stub: pb_grpc.ClassifierStub) -> None:
    images = random_images(2)
    response = stub.Classify(
        pb.ClassifyRequest(
            pixels=to_tensor(images),
            feature_maps=[
                pb.FeatureMapRequest(layers=["conv1"], subset=pb.ChannelSubset(indices=[1])),
                pb.FeatureMapRequest(layers=["conv1"], reduction=pb.REDUCTION_MEAN),
                pb.FeatureMapRequest(layers=["relu1"], most_active=1, dtype=pb.DATA_TYPE_FLOAT16),
                pb.FeatureMapRequest(layers=["pool1"], dtype=pb.DATA_TYPE_UINT8),
            ],
        ),
        timeout=10,
    )
    expected = activations(images)
    subset, mean, active, scaled = response.feature_maps
    np.testing.assert_array_equal(from_tensor(subset.values), expected["conv1"][:, [1]])
    assert list(subset.channels) == [1, 1]
    np.testing.assert_allclose(
        from_tensor(mean.values), expected["conv1"].mean(axis=1, keepdims=True)
    )
    channels = expected["relu1"].mean(axis=(2, 3)).argmax(axis=1)
    assert list(active.channels) == channels.tolist()
    assert from_tensor(active.values).dtype == np.float16
    back = np.array(scaled.offset)[:, None, None, None] + np.array(scaled.scale)[
        :, None, None, None
    ] * from_tensor(scaled.values)
    np.testing.assert_allclose(back, expected["pool1"], atol=0.51 * max(scaled.scale))


def test_a_picture_file_is_decoded_and_scaled(stub: pb_grpc.ClassifierStub) -> None:
    file = BytesIO()
    Image.new("RGB", (300, 200), (200, 100, 50)).save(file, "PNG")
    response = stub.Classify(
        pb.ClassifyRequest(
            encoded=pb.EncodedImages(images=[file.getvalue()] * 2), include_scores=True
        ),
        timeout=10,
    )
    flat = np.broadcast_to(np.array([200, 100, 50], np.uint8), (2, 4, 4, 3))
    np.testing.assert_array_equal(from_tensor(response.scores), activations(flat)["scores"])
    assert response.timings.decode_ns > 0


def test_more_images_than_a_batch_come_back_whole_and_in_order(
    stub: pb_grpc.ClassifierStub,
) -> None:
    images = random_images(1000)
    response = stub.Classify(
        pb.ClassifyRequest(
            pixels=to_tensor(images),
            include_scores=True,
            feature_maps=[pb.FeatureMapRequest(layers=["pool1"])],
        ),
        timeout=30,
    )
    expected = activations(images)
    np.testing.assert_array_equal(from_tensor(response.scores), expected["scores"])
    (fmap,) = response.feature_maps
    np.testing.assert_array_equal(from_tensor(fmap.values), expected["pool1"])
    assert response.timings.batch_size == 64
    assert response.timings.batch_count == -(-1000 // 64)


def test_many_callers_at_once_each_get_their_own(server: RunningServer) -> None:
    """Whether callers share a batch is chance here; test_scheduler.py shows that they do."""
    failures: list[str] = []

    def call(seed: int) -> None:
        with grpc.insecure_channel(server.address) as channel:
            stub = pb_grpc.ClassifierStub(channel)
            for round_ in range(30):
                images = random_images(1 + (seed + round_) % 3, seed=1000 * seed + round_)
                layers = ["pool1"] if seed % 2 else []
                response = stub.Classify(
                    pb.ClassifyRequest(
                        pixels=to_tensor(images),
                        include_scores=True,
                        feature_maps=[pb.FeatureMapRequest(layers=layers)] if layers else [],
                    ),
                    timeout=30,
                )
                expected = activations(images)
                if not np.array_equal(from_tensor(response.scores), expected["scores"]):
                    failures.append(f"scores of caller {seed}, round {round_}")
                for fmap in response.feature_maps:
                    if not np.array_equal(from_tensor(fmap.values), expected["pool1"]):
                        failures.append(f"maps of caller {seed}, round {round_}")

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_foreign_model_is_served_with_indices_and_tensor_names(
    stub: pb_grpc.ClassifierStub,
) -> None:
    images = random_images(1)
    response = stub.Classify(
        pb.ClassifyRequest(
            model_name="foreign",
            pixels=to_tensor(images),
            feature_maps=[pb.FeatureMapRequest(layers=["pool1"])],
        ),
        timeout=10,
    )
    assert response.model_version == "3"
    best = int(activations(images)["scores"].argmax())
    assert response.classifications[0].top[0].label == str(best)
    np.testing.assert_array_equal(
        from_tensor(response.feature_maps[0].values), activations(images)["pool1"]
    )


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (pb.ClassifyRequest(), "INVALID_ARGUMENT", "expected images as pixels or encoded"),
        (
            pb.ClassifyRequest(encoded=pb.EncodedImages()),
            "INVALID_ARGUMENT",
            "expected at least one image",
        ),
        (
            pb.ClassifyRequest(encoded=pb.EncodedImages(images=[b"no picture"])),
            "INVALID_ARGUMENT",
            "expected a JPEG, PNG, WebP, GIF or BMP file, got 10 bytes",
        ),
        (
            pb.ClassifyRequest(pixels=to_tensor(np.zeros((1, 8, 8, 3), np.uint8))),
            "INVALID_ARGUMENT",
            "expected pixels of dtype uint8 and shape (N, 4, 4, 3), got uint8 (1, 8, 8, 3)",
        ),
        (
            pb.ClassifyRequest(pixels=to_tensor(np.zeros((1, 4, 4, 3), np.float32))),
            "INVALID_ARGUMENT",
            "got float32",
        ),
        (
            pb.ClassifyRequest(
                pixels=to_tensor(random_images(1)),
                feature_maps=[pb.FeatureMapRequest(layers=["conv2"])],
            ),
            "INVALID_ARGUMENT",
            "unknown layer 'conv2': expected one of conv1, relu1, pool1, fc1",
        ),
        (
            pb.ClassifyRequest(model_name="vgg", pixels=to_tensor(random_images(1))),
            "NOT_FOUND",
            "unknown model 'vgg': expected one of foreign, tiny",
        ),
        (
            pb.ClassifyRequest(model_version="9", pixels=to_tensor(random_images(1))),
            "NOT_FOUND",
            "unknown version '9' of model 'tiny': expected 1",
        ),
        (
            pb.ClassifyRequest(
                pixels=to_tensor(random_images(4000)),
                feature_maps=[pb.FeatureMapRequest(layers=["conv1", "relu1"])],
            ),
            "RESOURCE_EXHAUSTED",
            "expected an answer of at most 1048576 bytes, got a request for 1",
        ),
        (
            pb.ClassifyRequest(pixels=to_tensor(random_images(5000))),
            "INVALID_ARGUMENT",
            "expected at most 4096 images",
        ),
    ],
)
def test_bad_requests_get_a_code_and_one_clear_line(
    stub: pb_grpc.ClassifierStub, request_: pb.ClassifyRequest, code: str, message: str
) -> None:
    found_code, details = failure(stub, request_)
    assert found_code == code
    assert message in details


def test_a_flood_of_tiny_pictures_is_refused_before_any_is_decoded(
    stub: pb_grpc.ClassifierStub,
) -> None:
    """Decoded first, a message of a megabyte could fill the memory."""
    flood = pb.ClassifyRequest(encoded=pb.EncodedImages(images=[b"x"] * 300_000))
    code, details = failure(stub, flood)
    assert code == "INVALID_ARGUMENT"
    assert "expected at most 4096 images" in details


def test_malformed_bytes_are_invalid_and_the_server_lives_on(channel: grpc.Channel) -> None:
    call: Callable[..., bytes] = channel.unary_unary("/convscope.v1.Classifier/Classify")
    with pytest.raises(grpc.RpcError) as info:
        call(b"\xff\xff\xff", timeout=10)
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as info:
        channel.unary_unary("/convscope.v1.Classifier/Unknown")(b"", timeout=10)
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_that_cannot_be_kept_is_told_as_such(stub: pb_grpc.ClassifierStub) -> None:
    request = pb.ClassifyRequest(pixels=to_tensor(random_images(4096)))
    with pytest.raises(grpc.RpcError) as info:
        stub.Classify(request, timeout=0.001)  # its answer alone takes longer to write
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_model_is_described_whole_and_all_are_listed_in_short(
    stub: pb_grpc.ClassifierStub,
) -> None:
    model = stub.GetModel(pb.GetModelRequest(), timeout=10).model
    assert (model.name, model.version, model.state) == ("tiny", "1", pb.MODEL_STATE_READY)
    assert (model.input.height, model.input.width, model.input.channels) == (4, 4, 3)
    assert tuple(model.labels) == LABELS
    assert [layer.name for layer in model.layers] == ["conv1", "relu1", "pool1", "fc1"]
    assert model.layers[0].volume == pb.Volume(depth=2, height=4, width=4)
    assert (model.parameter_count, model.multiply_add_count) == (35, 120)
    assert model.architecture.startswith("INPUT(4x4x3)")
    assert model.metadata["convscope.name"] == '"tiny"'
    assert model.execution_provider == "CPUExecutionProvider"
    listed = stub.ListModels(pb.ListModelsRequest(), timeout=10)
    assert listed.default_model_name == "tiny"
    assert [model.name for model in listed.models] == ["foreign", "tiny"]
    assert not listed.models[1].layers


def test_health_is_told_for_the_server_its_services_and_models(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "convscope.v1.Classifier", "tiny", "foreign"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as info:
        stub.Check(health_pb2.HealthCheckRequest(service="absent"), timeout=10)
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="absent"), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
    silent: Callable[..., Iterator[bytes]] = channel.stream_stream("/grpc.health.v1.Health/Watch")
    with pytest.raises(grpc.RpcError) as info:
        list(silent(iter([]), timeout=10))
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_reflection_tells_a_stranger_how_to_call(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "convscope.v1.Classifier" in database.get_services()
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("convscope.v1.Classifier")
    methods = [method.name for method in service.methods]
    assert methods == ["Classify", "ClassifyStream", "GetModel", "ListModels"]
    assert pool.FindMessageTypeByName("convscope.v1.ClassifyRequest").fields_by_name["top_k"]


def test_reflection_answers_under_its_v1_name_too(channel: grpc.Channel) -> None:
    v1: Callable[..., Iterator[bytes]] = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    )
    (answer,) = list(v1(iter([b"\x3a\x01*"]), timeout=10))  # list_services: "*"
    assert b"convscope.v1.Classifier" in answer


def test_starting_a_second_server_on_a_taken_port_fails_with_one_line(
    server: RunningServer, tmp_path: Path
) -> None:
    models = write_repository(tmp_path)
    with (
        pytest.raises(StartupError, match=r"127\.0\.0\.1:\d+.*taken.*--port"),
        running_server(models, port=server.port),
    ):
        pass
    with (
        pytest.raises(StartupError, match=r"Address already in use.*--metrics-port"),
        running_server(models, metrics_port=server.metrics_port),
    ):
        pass
