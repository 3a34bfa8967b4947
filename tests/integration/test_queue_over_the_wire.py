"""What becomes of calls that wait: what callers and metrics see, over each transport."""

import time
from collections.abc import Iterator

import grpc
import pytest
from support import open_inference
from support.exposition import Exposition
from support.servers import TRANSPORTS, RunningServer, running_server
from support.slow_model import slow_model
from support.tiny_models import random_images, write_repository

from convscope_proto.inference import grpc_service_pb2 as inference_pb
from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

MODEL = {"model": "slow", "version": "1"}
ROWS = 24


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    models = write_repository(tmp_path_factory.mktemp("models"), "slow", "1", slow_model())
    with running_server(models, request.param, max_batch_size=1, max_queue_rows=ROWS) as server:
        yield server


@pytest.fixture
def stub(server: RunningServer) -> Iterator[pb_grpc.ClassifierStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.ClassifierStub(channel)


def request(rows: int) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(pixels=to_tensor(random_images(rows)))


def waiting_rows(server: RunningServer) -> float:
    return Exposition.of(server.http)["convscope_queue_rows", MODEL]


def dropped_rows(server: RunningServer, reason: str) -> float:
    return Exposition.of(server.http)["convscope_rows_dropped_total", {**MODEL, "reason": reason}]


def test_a_cancelled_call_leaves_the_queue(
    server: RunningServer, stub: pb_grpc.ClassifierStub
) -> None:
    before = dropped_rows(server, "cancelled")
    call = stub.Classify.future(request(ROWS))
    while not waiting_rows(server):
        time.sleep(0.005)
    call.cancel()
    while waiting_rows(server):
        time.sleep(0.005)
    assert dropped_rows(server, "cancelled") > before


def test_a_call_leaves_the_queue_at_its_deadline(
    server: RunningServer, stub: pb_grpc.ClassifierStub
) -> None:
    before = dropped_rows(server, "deadline")
    with pytest.raises(grpc.RpcError) as info:
        stub.Classify(request(ROWS), timeout=0.3)  # a row takes a tenth of a second
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    while waiting_rows(server):
        time.sleep(0.005)
    assert dropped_rows(server, "deadline") > before


def test_a_full_queue_says_when_to_come_back(
    server: RunningServer, stub: pb_grpc.ClassifierStub
) -> None:
    call = stub.Classify.future(request(ROWS))
    while not waiting_rows(server):
        time.sleep(0.005)
    with pytest.raises(grpc.RpcError) as info:
        stub.Classify(request(ROWS), timeout=30)
    error = info.value
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(error.trailing_metadata() or ())
    assert int(trailers["grpc-retry-pushback-ms"]) >= 1
    call.cancel()


def test_a_stream_that_finds_the_queue_full_waits_and_fails_not_but_its_timeouts_count(
    server: RunningServer, stub: pb_grpc.ClassifierStub
) -> None:
    images = random_images(ROWS)  # only an empty queue has room for them
    message = inference_pb.ModelInferRequest(
        model_name="slow", id="patient", raw_input_contents=[images.tobytes()]
    )
    message.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    urgent = inference_pb.ModelInferRequest()
    urgent.MergeFrom(message)
    urgent.id = "urgent"
    urgent.parameters["timeout"].int64_param = 1000  # a row takes a hundred times as long
    with grpc.insecure_channel(server.address) as channel:
        while waiting_rows(server):  # of the tests before
            time.sleep(0.005)
        before = open_inference.statistics(channel, "slow")
        call = stub.Classify.future(request(ROWS))
        while not waiting_rows(server):
            time.sleep(0.005)
        late, patient = open_inference.stream_infer(channel, [urgent, message])
        assert call.result()
        after = open_inference.statistics(channel, "slow")
    assert "deadline" in late.error_message
    assert late.infer_response.id == "urgent"
    assert not patient.error_message
    assert patient.infer_response.id == "patient"
    assert after.inference_stats.success.count == before.inference_stats.success.count + 2
    # That which was late; those that were refused and tried again are no failures.
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
