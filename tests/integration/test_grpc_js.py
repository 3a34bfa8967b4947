"""grpc-js, another implementation of gRPC in another language, as a client of either transport."""

import base64
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.exposition import Exposition
from support.servers import TRANSPORTS, RunningServer, running_server, server_process
from support.slow_model import slow_model
from support.tiny_models import activations, random_images, write_repository

CLIENT = Path(__file__).parents[1] / "grpc_js"
NODE = shutil.which("node")
SLOW = {"model": "slow", "version": "1"}
SLOW_ROWS = 24

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="needs node, 20 or newer: https://nodejs.org"),
    pytest.mark.skipif(
        not (CLIENT / "node_modules" / "@grpc").is_dir(),
        reason="needs grpc-js: `npm ci --ignore-scripts --prefix tests/grpc_js` brings it",
    ),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = write_repository(tmp_path_factory.mktemp("models"))
    return write_repository(models, "slow", "1", slow_model())


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[RunningServer]:
    with running_server(models, request.param, default_model="tiny", max_batch_size=1) as server:
        yield server


def request(images: npt.NDArray[np.uint8], **fields: Any) -> dict[str, Any]:
    """A ClassifyRequest as proto-loader takes it."""
    data = base64.b64encode(images.tobytes()).decode()
    return {"pixels": {"dtype": "DATA_TYPE_UINT8", "shape": images.shape, "data": data}, **fields}


def array(tensor: dict[str, Any]) -> npt.NDArray[np.float32]:
    assert tensor["dtype"] == "DATA_TYPE_FLOAT32"
    data = base64.b64decode(tensor["data"])
    return np.frombuffer(data, np.float32).reshape(tensor["shape"])


@contextmanager
def client(
    address: str, scenario: str, *requests: dict[str, Any]
) -> Iterator["subprocess.Popen[str]"]:
    """The client, at work."""
    assert NODE is not None
    command = [NODE, str(CLIENT / "client.js"), address, scenario]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"requests": requests}) + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What it printed last."""
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def made(server: RunningServer, scenario: str, *requests: dict[str, Any]) -> dict[str, Any]:
    """What a scenario that needs nothing but its requests prints."""
    with client(server.address, scenario, *requests) as process:
        return result(process)


def test_scores_and_feature_maps_are_exact(server: RunningServer) -> None:
    images = random_images(3)
    wishes = {"include_scores": True, "feature_maps": [{"layers": ["all"]}], "id": "from node"}
    response = made(server, "unary", request(images, **wishes))["response"]
    expected = activations(images)
    assert response["id"] == "from node"
    np.testing.assert_allclose(array(response["scores"]), expected["scores"], rtol=1e-5)
    assert len(response["feature_maps"]) == 4
    for feature_map in response["feature_maps"]:
        found = array(feature_map["values"])
        np.testing.assert_allclose(found, expected[feature_map["layer"]], rtol=1e-5)


def test_compressed_requests_are_answered(server: RunningServer) -> None:
    images = np.zeros((1000, 4, 4, 3), np.uint8)
    response = made(server, "gzip", request(images, include_scores=True))["response"]
    scores = array(response["scores"])
    np.testing.assert_allclose(scores, activations(images)["scores"], rtol=1e-5)


def test_reads_and_writes_of_a_stream_interleave(server: RunningServer) -> None:
    good = [request(random_images(1, seed=n), id=str(n), include_scores=True) for n in range(10)]
    bad = request(random_images(1), id="bad", feature_maps=[{"layers": ["conv9"]}])
    found = made(server, "interleaved", *good[:5], bad, *good[5:])
    answers = found["answers"]
    error = answers.pop(5)["error"]
    assert (error["id"], "unknown layer 'conv9'" in error["message"]) == ("bad", True)
    for number, answer in enumerate(answers):
        assert answer["response"]["id"] == str(number)
        expected = activations(random_images(1, seed=number))["scores"]
        np.testing.assert_allclose(array(answer["response"]["scores"]), expected, rtol=1e-5)
    assert found["last"] == {"end": True}


def test_errors_have_their_code_and_message(server: RunningServer) -> None:
    found = made(server, "unary", request(random_images(1), model_name="nobody"))
    expected = "unknown model 'nobody': expected one of slow, tiny"
    assert found == {"error": {"code": "NOT_FOUND", "message": expected}}
    found = made(server, "unary", request(np.zeros((1, 8, 8, 3), np.uint8)))
    assert found["error"]["code"] == "INVALID_ARGUMENT"
    assert "(N, 4, 4, 3), got uint8 (1, 8, 8, 3)" in found["error"]["message"]


def dropped_rows(server: RunningServer, reason: str) -> float:
    return Exposition.of(server.http)["convscope_rows_dropped_total", {**SLOW, "reason": reason}]


def waiting_rows(server: RunningServer) -> float:
    return Exposition.of(server.http)["convscope_queue_rows", SLOW]


def test_a_cancelled_call_leaves_the_queue(server: RunningServer) -> None:
    before = dropped_rows(server, "cancelled")
    images = request(random_images(SLOW_ROWS), model_name="slow")
    with client(server.address, "cancel", images) as process:
        while not waiting_rows(server):
            time.sleep(0.005)
        found = json.loads(process.communicate("now\n", timeout=60)[0])
    assert found["error"]["code"] == "CANCELLED"
    while waiting_rows(server):
        time.sleep(0.005)
    assert dropped_rows(server, "cancelled") > before


def test_a_call_leaves_the_queue_at_its_deadline(server: RunningServer) -> None:
    before = dropped_rows(server, "deadline")
    found = made(server, "deadline", request(random_images(SLOW_ROWS), model_name="slow"))
    assert found["error"]["code"] == "DEADLINE_EXCEEDED"
    while waiting_rows(server):
        time.sleep(0.005)
    assert dropped_rows(server, "deadline") > before


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_health_watch_tells_of_the_drain(models: Path, transport: str) -> None:
    flags = (
        "--default-model=tiny",
        "--max-batch-size=1",
        "--grace-period-s=30",
        "--transport",
        transport,
    )
    with (
        server_process(str(models), *flags) as server,
        client(server.address, "watch") as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "watching\n"
        server.process.send_signal(signal.SIGTERM)
        assert result(process) == {"statuses": ["SERVING", "NOT_SERVING"]}
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended() == 0
