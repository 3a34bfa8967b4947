"""/metrics as Prometheus reads it, compared with what a client sent."""

from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from support.exposition import Exposition
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import activations, random_images, write_repository

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

CLASSIFY = {"grpc_service": "convscope.v1.Classifier", "grpc_method": "Classify"}


def scrape(server: RunningServer) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    return Exposition.of(server.http).samples


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_metrics_are_what_the_client_sent(tmp_path: Path, transport: str) -> None:
    images = random_images(3)
    model = {"model": "tiny", "version": "1"}
    with (
        running_server(write_repository(tmp_path), transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.ClassifierStub(channel)
        for _ in range(4):
            stub.Classify(pb.ClassifyRequest(pixels=to_tensor(images)), timeout=10)
        tapped = pb.ClassifyRequest(
            pixels=to_tensor(images), feature_maps=[pb.FeatureMapRequest(layers=["pool1"])]
        )
        stub.Classify(tapped, timeout=10)
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                stub.Classify(pb.ClassifyRequest(), timeout=10)
        found = scrape(server)
    rpc = {"grpc_type": "unary", **CLASSIFY}
    assert found[key("grpc_server_started_total", **rpc)] == 7
    assert found[key("grpc_server_handled_total", **rpc, grpc_code="OK")] == 5
    assert found[key("grpc_server_handled_total", **rpc, grpc_code="INVALID_ARGUMENT")] == 2
    assert found[key("grpc_server_handling_seconds_count", **rpc)] == 7
    assert found[key("convscope_images_total", **model)] == 15
    assert found[key("convscope_batch_size_rows_sum", **model)] == 15
    assert found[key("convscope_queue_seconds_count", **model)] == 5
    assert found[key("convscope_feature_map_requests_total", **model)] == 1
    assert found[key("convscope_feature_map_bytes_total", **model)] == 3 * 2 * 2 * 2 * 4
    assert found[key("convscope_sessions", **model)] == 2
    assert found[key("convscope_queue_rows", **model)] == 0
    assert found[key("convscope_ready")] == 1
    assert (
        found[key("convscope_model_info", **model, execution_provider="CPUExecutionProvider")] == 1
    )
    labels = activations(images)["scores"].argmax(axis=1).tolist()
    for index, label in enumerate(("red", "green", "blue")):
        expected = 5 * labels.count(index)
        assert found[key("convscope_predictions_total", **model, label=label)] == expected
    assert not any(name.endswith("_created") for name, _ in found)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_series_is_missing_before_the_first_request(tmp_path: Path, transport: str) -> None:
    with running_server(write_repository(tmp_path), transport) as server:
        found = scrape(server)
    rpc = {"grpc_type": "unary", **CLASSIFY}
    assert found[key("grpc_server_handled_total", **rpc, grpc_code="OK")] == 0
    refused = key(
        "convscope_requests_refused_total", model="tiny", version="1", reason="queue_full"
    )
    assert found[refused] == 0
