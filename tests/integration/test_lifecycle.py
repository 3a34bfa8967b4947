"""`convscope serve` as a process: start, signals, drain, and starts that must fail."""

import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.servers import CONVSCOPE, TRANSPORTS, server_process
from support.tiny_models import random_images, tiny_model, write_repository

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


_LOG_LINE = re.compile(r"\S+Z (INFO|WARNING) ")


def http_status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


# One process, and a supervisor with two.
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


@pytest.fixture
def models(tmp_path: Path) -> str:
    return str(write_repository(tmp_path))


@pytest.fixture(autouse=True, params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every server of these tests is started over each."""
    name: str = request.param
    if name == "envoy" and request.node.callspec.params.get("workers") == "2":
        pytest.skip("several workers take grpcio")
    monkeypatch.setenv("CONVSCOPE_TRANSPORT", name)
    return name


@WORKERS
def test_sigterm_drains_under_load_without_a_lost_call(models: str, workers: str) -> None:
    """Health turns first, calls are still taken, then refused with UNAVAILABLE, then exit 0."""
    outcomes: list[str] = []
    stop = threading.Event()
    request = pb.ClassifyRequest(pixels=to_tensor(random_images(500)), top_k=1)

    def load(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.ClassifierStub(channel)
            while not stop.is_set():
                try:
                    answer = stub.Classify(request, timeout=30)
                    outcomes.append("OK" if len(answer.classifications) == 500 else "SHORT")
                except grpc.RpcError as error:
                    code = getattr(error, "code", lambda: None)()
                    outcomes.append(str(code))
                    if code is grpc.StatusCode.UNAVAILABLE:
                        return

    with server_process(models, "--grace-period-s", "0.7", "--workers", workers) as server:
        threads = [threading.Thread(target=load, args=(server.address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        with grpc.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == SERVING
            while len(outcomes) < 20:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
            assert http_status(f"{server.http}/readyz") == 503
            assert http_status(f"{server.http}/healthz") == 200
            answered_before = outcomes.count("OK")
            status = server.wait_until_ended()
        stop.set()
        for thread in threads:
            thread.join()
    assert status == 0
    assert set(outcomes) <= {"OK", "StatusCode.UNAVAILABLE"}
    assert outcomes.count("OK") > answered_before  # the grace period took calls
    assert "stopped" in server.log[-1]
    assert not any("Traceback" in line or "ERROR" in line for line in server.log)


@WORKERS
def test_ctrl_c_stops_at_once_and_cleanly(models: str, workers: str) -> None:
    with server_process(models, "--grace-period-s", "3000", "--workers", workers) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.wait_until_ended() == 0
    assert "stopped" in server.log[-1]


@WORKERS
def test_a_second_signal_does_not_wait(models: str, workers: str) -> None:
    with server_process(models, "--grace-period-s", "3000", "--workers", workers) as server:
        server.process.send_signal(signal.SIGTERM)
        while http_status(f"{server.http}/readyz") == 200:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended() == 0


def test_without_arguments_the_shipped_models_are_served() -> None:
    with server_process() as server, grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.ClassifierStub(channel)
        listed = stub.ListModels(pb.ListModelsRequest(), timeout=10)
        assert [model.name for model in listed.models] == ["cifar10", "simple"]
        assert listed.default_model_name == "cifar10"
        assert stub.GetModel(pb.GetModelRequest(), timeout=10).model.name == "cifar10"
        assert http_status(f"{server.http}/readyz") == 200
        assert http_status(f"{server.http}/elsewhere") == 404


def test_another_of_the_shipped_models_can_be_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_DEFAULT_MODEL", "simple")
    with server_process() as server, grpc.insecure_channel(server.address) as channel:
        model = pb_grpc.ClassifierStub(channel).GetModel(pb.GetModelRequest(), timeout=10).model
        assert model.name == "simple"


def test_several_models_of_one_s_own_have_no_default() -> None:
    """Also where they are called like those that come with convscope."""
    models = str(Path(__file__).parents[2] / "models")
    with server_process(models) as server, grpc.insecure_channel(server.address) as channel:
        stub = pb_grpc.ClassifierStub(channel)
        assert stub.ListModels(pb.ListModelsRequest(), timeout=10).default_model_name == ""
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetModel(pb.GetModelRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "expected the name of one of cifar10, simple" in (caught.value.details() or "")


def test_every_flag_can_come_from_the_environment(
    models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSCOPE_MODELS", models)
    monkeypatch.setenv("CONVSCOPE_MAX_BATCH_SIZE", "3")
    with server_process() as server, grpc.insecure_channel(server.address) as channel:
        model = pb_grpc.ClassifierStub(channel).GetModel(pb.GetModelRequest(), timeout=10).model
        assert (model.name, model.max_batch_size) == ("tiny", 3)


def failing_start(*arguments: str) -> tuple[int, str]:
    process = subprocess.run(
        [CONVSCOPE, "serve", "--port", "0", "--metrics-port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    errors = [line for line in process.stderr.splitlines() if not _LOG_LINE.match(line)]
    assert len(errors) == 1, process.stderr
    return process.returncode, errors[0]


@WORKERS
def test_starts_that_must_fail_say_why_in_one_line(
    models: str, tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSCOPE_WORKERS", workers)
    with server_process(models) as server:
        port = server.address.rpartition(":")[2]
        status, line = failing_start(models, "--port", port)
        assert (status, line.startswith("Error: expected to listen for gRPC on")) == (1, True)
        metrics_port = server.http.rpartition(":")[2]
        status, line = failing_start(models, "--metrics-port", metrics_port)
        assert (status, "choose another with --metrics-port" in line) == (1, True)
    status, line = failing_start(str(tmp_path / "absent"))
    assert (status, "found nothing at" in line) == (1, True)
    status, line = failing_start(models, "--default-model", "vgg")
    assert (status, "unknown model 'vgg': expected one of tiny" in line) == (1, True)
    status, line = failing_start(models, "--max-batch-size", "0")
    assert (status, "expected --max-batch-size from 1 to 65535, got 0" in line) == (1, True)
    status, line = failing_start(models, "--workers", "0")
    assert (status, "expected --workers from 1 to 256, got 0" in line) == (1, True)
    status, line = failing_start(models, "--workers", "2", "--model-control", "explicit")
    assert (status, "expected --workers 1 with --model-control explicit" in line) == (1, True)
    status, line = failing_start(models, "--device", "cuda")
    assert (status, "expected ONNX Runtime with CUDAExecutionProvider" in line) == (1, True)
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(tiny_model().SerializeToString()[:-50])
    status, line = failing_start(str(truncated))
    assert (status, "model 'truncated': version 1: truncated.onnx: expected" in line) == (1, True)
