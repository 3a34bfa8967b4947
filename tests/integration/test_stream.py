"""ClassifyStream over the wire: in order, errors in their place, bounded, drained."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest
from support.servers import TRANSPORTS, RunningServer, running_server, server_process
from support.tiny_models import activations, random_images, write_repository

from convscope_proto.tensors import from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[RunningServer]:
    limits = {"max_message_bytes": 1 << 20}
    with running_server(models, request.param, **limits) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[pb_grpc.ClassifierStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.ClassifierStub(channel)


def request(number: int, rows: int = 1, **fields: Any) -> pb.ClassifyRequest:
    pixels = to_tensor(random_images(rows, seed=number))
    return pb.ClassifyRequest(pixels=pixels, id=str(number), include_scores=True, **fields)


def test_answers_come_in_order_each_with_its_own_scores(stub: pb_grpc.ClassifierStub) -> None:
    sizes = [1 + number % 5 * 40 for number in range(200)]  # some larger than a batch
    answers = stub.ClassifyStream(request(n, rows) for n, rows in enumerate(sizes))
    for number, answer in enumerate(answers):
        assert answer.response.id == str(number)
        expected = activations(random_images(sizes[number], seed=number))["scores"]
        np.testing.assert_allclose(from_tensor(answer.response.scores), expected, rtol=1e-5)
    assert number == 199


def test_a_request_that_fails_has_its_error_in_its_place(stub: pb_grpc.ClassifierStub) -> None:
    answers = list(
        stub.ClassifyStream(
            iter(
                [
                    request(0),
                    request(1, feature_maps=[pb.FeatureMapRequest(layers=["conv9"])]),
                    request(2, model_name="nobody"),
                    pb.ClassifyRequest(id="3"),
                    request(4),
                ]
            )
        )
    )
    kinds = [answer.WhichOneof("result") for answer in answers]
    assert kinds == ["response", "error", "error", "error", "response"]
    codes = [answer.error.code for answer in answers[1:4]]
    assert codes == [3, 5, 3]
    assert [answer.error.id for answer in answers[1:4]] == ["1", "2", "3"]
    assert "unknown layer 'conv9'" in answers[1].error.message


def test_requests_and_answers_may_alternate(stub: pb_grpc.ClassifierStub) -> None:
    answered: Queue[str] = Queue()

    def requests() -> Iterator[pb.ClassifyRequest]:
        for number in range(20):
            yield request(number)
            assert answered.get(timeout=10) == str(number)  # before the next one is sent

    ids = []
    for answer in stub.ClassifyStream(requests()):
        ids.append(answer.response.id)
        answered.put(answer.response.id)
    assert len(ids) == 20


def test_a_caller_that_does_not_read_is_not_read_from(stub: pb_grpc.ClassifierStub) -> None:
    sent = 0

    def requests() -> Iterator[pb.ClassifyRequest]:
        nonlocal sent
        wish = pb.FeatureMapRequest(layers=["all"])
        for number in range(3000):  # some 300 KB of answer each: 900 MB
            sent += 1
            yield request(number, rows=1000, feature_maps=[wish])

    call = stub.ClassifyStream(requests())
    assert next(call).response.id == "0"
    settled = -1
    while settled != sent:  # until the server takes no more
        settled = sent
        time.sleep(0.5)
    assert sent < 500
    call.cancel()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_draining_server_answers_what_it_read_and_ends_the_stream(
    models: Path, transport: str
) -> None:
    with (
        server_process(str(models), "--grace-period-s", "0", "--transport", transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = pb_grpc.ClassifierStub(channel)
        call = stub.ClassifyStream(request(number) for number in itertools.count())
        ids, error = [], None
        try:
            for answer in call:
                ids.append(int(answer.response.id))
                if len(ids) == 100:
                    os.kill(server.process.pid, signal.SIGTERM)
        except grpc.RpcError as raised:
            error = raised
        assert isinstance(error, grpc.Call)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "send the rest to another one" in (error.details() or "")
        assert ids == list(range(len(ids)))
        assert server.wait_until_ended() == 0
