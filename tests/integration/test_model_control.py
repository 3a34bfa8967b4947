"""Models that come and go while a real server process answers calls."""

import io
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from support import open_inference, triton_session
from support.servers import TRANSPORTS, ServerProcess, server_process
from support.tiny_models import activations, random_images, replace_model, write_repository

from convscope_proto.tensors import from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

ROOT = Path(__file__).parents[2]
EXPLICIT = ("--model-control", "explicit", "--load-model", "*")
POLL = ("--model-control", "poll", "--poll-interval-s", "0.05")
IMAGES = random_images(3)
PLAIN = pb.ClassifyRequest(pixels=to_tensor(IMAGES), include_scores=True)
Health = health_pb2.HealthCheckResponse


@pytest.fixture(autouse=True, params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every server of these tests is started over each."""
    name: str = request.param
    monkeypatch.setenv("CONVSCOPE_TRANSPORT", name)
    return name


def offset_of(response: pb.ClassifyResponse) -> float:
    """The offset of the model that answered PLAIN: one model for all rows."""
    difference = from_tensor(response.scores) - activations(IMAGES)["scores"]
    assert np.ptp(difference) == 0
    return float(difference.flat[0])


def code(call: Callable[[], object]) -> str:
    try:
        call()
    except grpc.RpcError as error:
        failed = cast("grpc.Call", error)
        return f"{failed.code().name}: {failed.details()}"
    return "OK"


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def metrics(server: ServerProcess) -> str:
    with urllib.request.urlopen(f"{server.http}/metrics", timeout=10) as answer:  # noqa: S310
        return str(answer.read().decode())


@contextmanager
def connected(*arguments: str) -> Iterator[tuple[ServerProcess, grpc.Channel]]:
    with (
        server_process(*arguments) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield server, channel


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).resize((64, 64)).save(file, "PNG")
    return file.getvalue()


HAMMERS = {
    "plain": PLAIN,
    "bulk": pb.ClassifyRequest(pixels=to_tensor(random_images(200))),
    "tapped": pb.ClassifyRequest(
        pixels=to_tensor(IMAGES), feature_maps=[pb.FeatureMapRequest(layers=["conv1", "pool1"])]
    ),
    # Decoded in a thread, between finding the model and computing.
    "encoded": pb.ClassifyRequest(encoded=pb.EncodedImages(images=[png()] * 4)),
}


@contextmanager
def hammered(address: str) -> Iterator[dict[str, list[str]]]:
    """Calls of every kind without a pause; what came of each, once the block is left."""
    outcomes: dict[str, list[str]] = {kind: [] for kind in HAMMERS}
    stop = threading.Event()

    def hammer(kind: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = pb_grpc.ClassifierStub(channel)
            while not stop.is_set():
                outcomes[kind].append(code(lambda: stub.Classify(HAMMERS[kind], timeout=30)))

    threads = [threading.Thread(target=hammer, args=(kind,)) for kind in HAMMERS]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("mode", [EXPLICIT, POLL], ids=["explicit", "poll"])
def test_twenty_reloads_under_load_without_a_failed_call(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    with connected(str(write_repository(tmp_path)), *mode) as (server, channel):
        stub = pb_grpc.ClassifierStub(channel)
        with hammered(server.address) as outcomes:
            for reload in range(1, 21):
                replace_model(tmp_path, reload)
                if mode is EXPLICIT:
                    open_inference.load(channel, "tiny")
                    assert offset_of(stub.Classify(PLAIN, timeout=30)) == reload
                else:
                    wait_for(lambda: offset_of(stub.Classify(PLAIN, timeout=30)) == reload)  # noqa: B023
        assert {kind: set(found) for kind, found in outcomes.items()} == {
            kind: {"OK"} for kind in HAMMERS
        }
        # Counted through all of them.
        count = re.search(r'convscope_queue_seconds_count{.*version="1"} ([\d.]+)', metrics(server))
        assert count is not None
        assert float(count[1]) >= sum(map(len, outcomes.values()))


def test_loads_unloads_and_calls_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_repository(tmp_path, name)
    outcomes: set[str] = set()
    with connected(str(tmp_path), *EXPLICIT) as (server, channel):
        stub = pb_grpc.ClassifierStub(channel)
        done = threading.Event()

        def control(name: str, turn: int) -> None:
            for step in range(30):
                call = open_inference.load if (step + turn) % 2 else open_inference.unload
                outcomes.add(code(lambda: call(channel, name)))  # noqa: B023

        def classify(name: str) -> None:
            request = pb.ClassifyRequest(model_name=name)
            request.MergeFrom(PLAIN)
            while not done.is_set():
                outcomes.add(code(lambda: stub.Classify(request, timeout=30)).partition(":")[0])

        controls = [
            threading.Thread(target=control, args=(name, turn))
            for name in "ab"
            for turn in range(3)
        ]
        calls = [threading.Thread(target=classify, args=(name,)) for name in "ab" for _ in range(2)]
        for thread in (*controls, *calls):
            thread.start()
        for thread in controls:
            thread.join()
        done.set()
        for thread in calls:
            thread.join()
        # Unloaded is NOT_FOUND, being loaded UNAVAILABLE; nothing that was taken failed.
        assert {"OK"} < outcomes <= {"OK", "NOT_FOUND", "UNAVAILABLE"}
        for name in "ab":
            open_inference.unload(channel, name)
        wait_for(lambda: {entry[2] for entry in open_inference.index(channel)} == {"UNAVAILABLE"})
        assert 'model="' not in metrics(server)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended() == 0
    assert not any("Traceback" in line or "ERROR" in line for line in server.log)


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hundred_loads_and_unloads_leave_no_memory_behind(tmp_path: Path, transport: str) -> None:
    shutil.copytree(ROOT / "models" / "simple", tmp_path / "simple")
    request = pb.ClassifyRequest(
        pixels=to_tensor(np.zeros((64, 32, 32, 3), np.uint8)),
        feature_maps=[pb.FeatureMapRequest(layers=["all"], reduction=pb.REDUCTION_MEAN)],
    )
    with connected(str(tmp_path), "--model-control", "explicit") as (server, channel):
        stub = pb_grpc.ClassifierStub(channel)
        pid = server.process.pid if transport == "grpcio" else server.envoy_pid

        def largest_mb(cycles: int) -> float:
            largest = 0.0
            for _ in range(cycles):
                open_inference.load(channel, "simple")
                stub.Classify(request, timeout=30)
                open_inference.unload(channel, "simple")
                largest = max(largest, resident_mb(pid))
            print(f"resident after {cycles} loads: at most {largest:.0f} MB")
            return largest

        before = largest_mb(30)
        after = largest_mb(100)
        # One session that stays, with its 64 rows of activations, is some 10 MB.
        assert after - before < 40
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        assert threads < 60


def test_a_bad_file_leaves_the_old_one_serving_and_says_why(tmp_path: Path) -> None:
    with connected(str(write_repository(tmp_path)), *POLL) as (server, channel):
        stub = pb_grpc.ClassifierStub(channel)
        (tmp_path / "tiny" / "2").mkdir()
        (tmp_path / "tiny" / "2" / "model.onnx").write_bytes(b"nothing")
        wait_for(lambda: len(open_inference.index(channel)) == 2)
        first, second = open_inference.index(channel)
        assert first == ("tiny", "1", "READY", "")
        assert second[:3] == ("tiny", "2", "UNAVAILABLE")
        assert "model.onnx: expected an ONNX model" in second[3]
        assert 'convscope_model_load_failures_total{model="tiny"} 1.0' in metrics(server)
        listed = stub.ListModels(pb.ListModelsRequest(), timeout=10).models
        assert [(model.version, model.state) for model in listed] == [
            ("1", pb.MODEL_STATE_READY),
            ("2", pb.MODEL_STATE_UNAVAILABLE),
        ]
        wanted = pb.GetModelRequest(name="tiny", version="2")
        model = stub.GetModel(wanted, timeout=10).model
        assert (model.state, model.state_reason) == (pb.MODEL_STATE_UNAVAILABLE, second[3])
        assert stub.GetModel(pb.GetModelRequest(), timeout=10).model.version == "1"
        assert offset_of(stub.Classify(PLAIN, timeout=10)) == 0
        replace_model(tmp_path, 6, version="2")
        wait_for(lambda: offset_of(stub.Classify(PLAIN, timeout=10)) == 6)
        server.process.send_signal(signal.SIGINT)
        assert server.wait_until_ended() == 0
    errors = [line for line in server.log if " ERROR " in line]
    assert len(errors) == 1
    assert "load failed for model 'tiny': version 2: model.onnx" in errors[0]


def test_several_versions_answer_at_once(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        replace_model(tmp_path, number, version=str(number))
    with connected(str(tmp_path), "--version-policy", "latest:2") as (_, channel):
        stub = pb_grpc.ClassifierStub(channel)
        for wanted, version in (("", "3"), ("2", "2"), ("3", "3")):
            request = pb.ClassifyRequest(model_version=wanted)
            request.MergeFrom(PLAIN)
            response = stub.Classify(request, timeout=10)
            assert (response.model_version, offset_of(response)) == (version, float(version))
        request.model_version = "1"
        assert code(lambda: stub.Classify(request, timeout=10)).startswith("NOT_FOUND")
        listed = stub.ListModels(pb.ListModelsRequest(), timeout=10)
        assert [model.version for model in listed.models] == ["2", "3"]
        assert listed.default_model_name == "tiny"


def test_watch_follows_a_model_that_comes_and_goes(tmp_path: Path) -> None:
    """In explicit mode an unloaded model is known and not serving; a folder that is gone is not."""
    write_repository(tmp_path)
    request = health_pb2.HealthCheckRequest(service="tiny")
    with connected(str(tmp_path), *EXPLICIT) as (_, channel):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(request, timeout=60)
        assert next(watch).status == Health.SERVING
        open_inference.unload(channel, "tiny")
        assert next(watch).status == Health.NOT_SERVING
        assert health.Check(request, timeout=10).status == Health.NOT_SERVING
        open_inference.load(channel, "tiny")
        assert next(watch).status == Health.SERVING
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == Health.SERVING
    folder = tmp_path / "tiny"
    with connected(str(tmp_path), *POLL) as (_, channel):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(request, timeout=60)
        assert next(watch).status == Health.SERVING
        folder.rename(tmp_path.parent / "aside")
        told = [next(watch).status]
        while told[-1] != Health.SERVICE_UNKNOWN:
            told.append(next(watch).status)
        assert set(told) <= {Health.NOT_SERVING, Health.SERVICE_UNKNOWN}
        assert code(lambda: health.Check(request, timeout=10)).startswith("NOT_FOUND")
        (tmp_path.parent / "aside").rename(folder)
        while told[-1] != Health.SERVING:
            told.append(next(watch).status)


def test_tritonclient_controls_the_repository(tmp_path: Path) -> None:
    with connected(str(write_repository(tmp_path)), "--model-control", "explicit") as (server, _):
        session = subprocess.run(
            [sys.executable, "-W", "ignore", triton_session.__file__, server.address, "tiny"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert session.returncode == 0, session.stderr
    lines = session.stdout.splitlines()
    assert lines[:7] == [
        "live True ready True",
        "before False tiny//",
        "load OK",
        "loaded True tiny/1/READY",
        "version 1 True False",
        "unload OK",
        "again OK",
    ]
    absent, config, files = lines[7:]
    assert absent.startswith(
        "absent StatusCode.NOT_FOUND failed to load 'absent', failed to poll from model repository"
    )
    assert config.startswith("config StatusCode.UNIMPLEMENTED")
    assert files.startswith("files StatusCode.UNIMPLEMENTED")


def test_a_name_that_no_model_has_is_told_back_in_one_short_line(tmp_path: Path) -> None:
    with connected(str(write_repository(tmp_path)), *EXPLICIT) as (_, channel):
        told = code(lambda: open_inference.load(channel, "a\nb" * 1000))
    assert told.startswith("NOT_FOUND: failed to load 'a\\nb")
    assert "\n" not in told
    assert len(told) < 400


@pytest.mark.parametrize("mode", [(), POLL], ids=["none", "poll"])
def test_callers_control_nothing_in_the_other_modes(mode: tuple[str, ...], tmp_path: Path) -> None:
    with connected(str(write_repository(tmp_path)), *mode) as (_, channel):
        for call in (open_inference.load, open_inference.unload):
            assert code(lambda: call(channel, "tiny")).startswith(  # noqa: B023
                "UNAVAILABLE: explicit model load / unload is not allowed if polling is enabled"
            )
            assert code(lambda: call(channel, "tiny", repository_name="r")).startswith(  # noqa: B023
                "UNIMPLEMENTED: 'repository_name' specification is not supported"
            )
        assert code(lambda: open_inference.index(channel, "r")).startswith("UNIMPLEMENTED")
        assert open_inference.index(channel) == [("tiny", "1", "READY", "")]


def test_a_load_that_fails_tells_the_caller(tmp_path: Path) -> None:
    write_repository(tmp_path)
    with connected(str(tmp_path), *EXPLICIT) as (_, channel):
        (tmp_path / "tiny" / "config.pbtxt").write_text('backend: "python"')
        outcome = code(lambda: open_inference.load(channel, "tiny"))
        assert outcome.startswith("INVALID_ARGUMENT: load failed for model 'tiny': config.pbtxt")
        assert str(tmp_path) not in outcome
        assert ("tiny", "1", "READY", "") in open_inference.index(channel)


def test_no_exit_on_error_starts_without_what_fails(tmp_path: Path) -> None:
    write_repository(tmp_path)
    write_repository(tmp_path, "bad")
    (tmp_path / "bad" / "1" / "model.onnx").write_bytes(b"nothing")
    (tmp_path / "tiny" / "config.pbtxt").write_text(
        "max_batch_size: 3 optimization { priority: 1 }"
    )
    with connected(str(tmp_path), "--no-exit-on-error") as (server, channel):
        stub = pb_grpc.ClassifierStub(channel)
        states = {entry[0]: entry[2] for entry in open_inference.index(channel)}
        assert states == {"bad": "UNAVAILABLE", "tiny": "READY"}
        model = stub.GetModel(pb.GetModelRequest(name="tiny"), timeout=10).model
        assert model.max_batch_size == 3
    assert sum("load failed for model 'bad'" in line for line in server.log) == 1
    ignored = [line for line in server.log if "ignored in config.pbtxt" in line]
    assert len(ignored) == 1
    assert ignored[0].endswith("model tiny: ignored in config.pbtxt: optimization")
    with server_process(str(tmp_path), wait=False) as strict:
        assert strict.wait_until_ended() == 1
    assert strict.log[-1].startswith("Error: load failed for model 'bad': version 1: model.onnx")


def test_sigterm_while_models_load_ends_cleanly(tmp_path: Path) -> None:
    for number in range(150):
        write_repository(tmp_path, f"model{number}")
    with server_process(str(tmp_path), wait=False) as server:
        assert server.process.stderr is not None
        for line in server.process.stderr:
            if "loaded and warmed" in line:
                break
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended() == 0
    # It did not go on to load them all, and ended without complaint.
    assert not any("ready after" in line for line in server.log)
    assert all(" INFO " in line for line in server.log)
    shutil.rmtree(tmp_path / "model0")
    with connected(str(tmp_path), "--model-control", "explicit") as (server, channel):
        call = threading.Thread(target=lambda: code(lambda: open_inference.load(channel, "model1")))
        call.start()
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended() == 0
        call.join()
    assert not any("Traceback" in line or "ERROR" in line for line in server.log)


def test_the_flags_are_checked(tmp_path: Path) -> None:
    models = str(write_repository(tmp_path))
    for arguments, message in (
        (("--version-policy", "newest"), "expected a version policy as latest:N"),
        (("--load-model", "tiny"), "--load-model is for --model-control explicit"),
        (("--poll-interval-s", "0"), "expected --poll-interval-s from 0.01"),
        (("--model-control", "explicit", "--load-model", "x"), "failed to load 'x'"),
    ):
        with server_process(models, *arguments, wait=False) as server:
            assert server.wait_until_ended() == 1
        assert server.log[-1].startswith(f"Error: {message}")
