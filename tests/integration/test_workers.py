"""`convscope serve --workers 2`: workers that die, hang and are orphaned; one set of metrics."""

import asyncio
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.servers import server_process
from support.tiny_models import random_images, write_repository

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc
from convscope_server import supervisor
from convscope_server.config import ServerConfig

REQUEST = pb.ClassifyRequest(pixels=to_tensor(random_images(3)), top_k=1)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "models")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(http: str) -> Series:
    """Every sample of /metrics; each series must be there once."""
    status, text = get(f"{http}/metrics")
    assert status == 200
    samples = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(samples) == len(dict(samples))
    return dict(samples)


def value(series: Series, name: str, **labels: str) -> float:
    """The sum of the series of this name with these labels."""
    return sum(
        number
        for (found, its_labels), number in series.items()
        if found == name and labels.items() <= dict(its_labels).items()
    )


def answered_ok(series: Series) -> float:
    return value(series, "grpc_server_handled_total", grpc_method="Classify", grpc_code="OK")


def children(process_id: int) -> list[int]:
    """The processes that a process started, in order."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = after_name[:2]
        if int(parent) == process_id and state != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, f"never came: {what}"
        time.sleep(0.02)


def open_channel(address: str) -> grpc.Channel:
    """A connection of its own: channels of one process share one otherwise."""
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def classify(address: str) -> None:
    with open_channel(address) as channel:
        stub = pb_grpc.ClassifierStub(channel)
        assert len(stub.Classify(REQUEST, timeout=30, wait_for_ready=True).classifications) == 3


def test_one_scrape_is_the_sum_of_what_all_clients_sent(models: Path) -> None:
    with server_process(str(models), "--workers", "2") as server:
        for _ in range(20):
            classify(server.address)
        found = scrape(server.http)
        assert len(children(server.process.pid)) == 2
    model = {"model": "tiny", "version": "1"}
    assert answered_ok(found) == 20
    assert value(found, "convscope_images_total", **model) == 60
    assert value(found, "convscope_predictions_total", **model) == 60
    assert value(found, "convscope_queue_seconds_count", **model) == 20
    assert value(found, "convscope_queue_seconds_bucket", **model, le="+Inf") == 20
    assert value(found, "convscope_queue_rows", **model) == 0
    assert value(found, "convscope_sessions", **model) == 2
    assert value(found, "convscope_model_info", **model) == 1
    assert value(found, "convscope_ready") == 1
    assert value(found, "convscope_worker_restarts_total") == 0
    # Three processes; one alone has more than 10 MB and 3 open files.
    assert value(found, "process_resident_memory_bytes") > 100e6
    assert value(found, "process_open_fds") > 20
    assert not any("pid" in dict(labels) for _, labels in found)


def test_log_lines_say_which_worker_they_are_from(models: Path) -> None:
    with server_process(str(models), "--workers", "2") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.wait_until_ended() == 0
    line = re.compile(r"\d{4}-\d\d-\d\dT\S+Z INFO +(worker \d: )?[a-z]")
    assert [text for text in server.log if not line.match(text)] == []
    for number in (1, 2):
        told = [text for text in server.log if f"worker {number}: model tiny, version 1" in text]
        assert len(told) == 1


def test_a_killed_worker_comes_back_and_no_counter_ever_sinks(models: Path) -> None:
    answered = [0] * 4
    codes: list[grpc.StatusCode] = []
    stop = threading.Event()

    def load(number: int) -> None:
        while not stop.is_set():
            with open_channel(server.address) as channel:
                stub = pb_grpc.ClassifierStub(channel)
                try:
                    while not stop.is_set():
                        stub.Classify(REQUEST, timeout=30, wait_for_ready=True)
                        answered[number] += 1
                except grpc.RpcError as error:
                    codes.append(error.code())

    with server_process(str(models), "--workers", "2") as server:
        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        before: Series = {}

        def poll() -> Series:
            nonlocal before
            after = scrape(server.http)
            sunk = {
                series
                for series, number in before.items()
                if series[0].endswith(("_total", "_count", "_sum", "_bucket"))
                and after.get(series, -1) < number
            }
            assert not sunk
            before = after
            return after

        try:
            for restarts in (1, 2):
                wait_for(lambda: answered_ok(poll()) > 200 * restarts, "calls")  # noqa: B023
                os.kill(children(server.process.pid)[0], signal.SIGKILL)
                wait_for(
                    lambda: value(poll(), "convscope_worker_restarts_total") == restarts,  # noqa: B023
                    "the restart",
                )
                wait_for(lambda: value(poll(), "convscope_ready") == 1, "all workers")
                assert get(f"{server.http}/readyz") == (200, "ready\n")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}
        # What a worker had answered when it was killed may not have reached the client.
        assert sum(answered) <= answered_ok(poll()) <= sum(answered) + len(codes)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended() == 0
    assert sum("was killed by SIGKILL; starts again in" in line for line in server.log) == 2


def test_the_other_worker_serves_until_the_model_is_back(models: Path) -> None:
    model = models / "tiny/1/model.onnx"
    content = model.read_bytes()
    with server_process(str(models), "--workers", "2") as server:
        model.write_bytes(content[:-50])
        os.kill(children(server.process.pid)[0], signal.SIGKILL)
        wait_for(lambda: get(f"{server.http}/readyz")[0] == 503, "the end of the worker")
        assert get(f"{server.http}/healthz")[0] == 200
        for _ in range(10):
            classify(server.address)
        found = scrape(server.http)
        assert answered_ok(found) == 10
        assert value(found, "convscope_ready") == 0
        assert value(found, "convscope_sessions") == 1  # the dead worker's gauges went with it
        model.write_bytes(content)
        wait_for(lambda: get(f"{server.http}/readyz")[0] == 200, "all workers")
        assert value(scrape(server.http), "convscope_sessions") == 2


def test_a_worker_that_never_comes_back_ends_the_server(models: Path) -> None:
    with server_process(str(models), "--workers", "2", "--grace-period-s", "0") as server:
        (models / "tiny/1/model.onnx").write_bytes(b"no model")
        os.kill(children(server.process.pid)[0], signal.SIGKILL)
        assert server.wait_until_ended() == 1
    (line,) = [line for line in server.log if line.startswith("Error: ")]
    assert (
        "ended 5 times in a row before it was ready, the last time so: load failed for model 'tiny'"
        in line
    )
    assert any("worker 2: stopped" in line or "worker 1: stopped" in line for line in server.log)


def test_the_series_of_a_model_that_is_gone_are_gone(models: Path) -> None:
    """Though they stay in the files that workers share; and it may come back."""
    write_repository(models, name="other")
    arguments = ("--workers", "2", "--model-control", "poll", "--poll-interval-s", "0.1")
    with server_process(str(models), *arguments, "--default-model", "tiny") as server:
        classify(server.address)
        assert value(scrape(server.http), "convscope_sessions", model="tiny") == 2
        folder = models / "tiny"
        away = models.parent / "away"
        folder.rename(away)
        wait_for(
            lambda: (
                not any(dict(labels).get("model") == "tiny" for _, labels in scrape(server.http))
            ),
            "the end of its series",
        )
        assert value(scrape(server.http), "convscope_sessions", model="other") == 2
        away.rename(folder)
        wait_for(
            lambda: value(scrape(server.http), "convscope_sessions", model="tiny") == 2,
            "its return",
        )
        assert value(scrape(server.http), "convscope_images_total", model="tiny") == 3


def metrics_folders() -> set[Path]:
    return set(supervisor._MEMORY_FOLDER.glob("convscope-metrics-*"))


def test_workers_end_with_a_supervisor_that_is_killed(models: Path) -> None:
    before = metrics_folders()
    with server_process(str(models), "--workers", "2") as server:
        workers = children(server.process.pid)
        assert len(workers) == 2
        server.process.kill()
        server.process.wait()
        wait_for(
            lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "their end"
        )
    assert metrics_folders() <= before


def test_a_worker_that_hangs_is_told_by_healthz(models: Path) -> None:
    with server_process(str(models), "--workers", "2") as server:
        worker = children(server.process.pid)[0]
        os.kill(worker, signal.SIGSTOP)
        wait_for(lambda: get(f"{server.http}/healthz")[0] == 503, "bad health")
        status, text = get(f"{server.http}/healthz")
        assert (status, re.sub(r"\d", "N", text)) == (503, "the event loop of worker N hangs\n")
        os.kill(worker, signal.SIGCONT)
        wait_for(lambda: get(f"{server.http}/healthz") == (200, "alive\n"), "good health")


async def all_ready(
    watched: supervisor.Supervisor, running: "asyncio.Task[int]", without: int = 0
) -> list[int]:
    """The processes of all workers, once they are ready and this one is not among them."""
    while True:
        workers = [worker.process_id for worker in watched._workers.values()]
        if watched._is_ready() and without not in workers:
            return workers
        assert not running.done()
        await asyncio.sleep(0.02)


def test_a_worker_that_hangs_for_long_is_killed_and_started_again(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_KILL_TICKS", 5)
    config = ServerConfig(models=models, port=0, metrics_port=0, workers=2, grace_period_s=0)

    async def run() -> int:
        watched = supervisor.Supervisor(config, "info")
        running = asyncio.create_task(watched.run())
        workers = await all_ready(watched, running)
        os.kill(workers[0], signal.SIGSTOP)
        after = await all_ready(watched, running, without=workers[0])
        assert (len(workers), len(after)) == (2, 2)
        os.kill(os.getpid(), signal.SIGTERM)
        return await running

    assert asyncio.run(run()) == 0
    assert "its event loop hangs: killed" in caplog.text


def test_a_worker_that_does_not_end_is_killed(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_END_MARGIN_S", 1.0)
    config = ServerConfig(
        models=models, port=0, metrics_port=0, workers=2, grace_period_s=0, drain_timeout_s=0
    )

    async def run() -> tuple[int, list[int]]:
        watched = supervisor.Supervisor(config, "info")
        running = asyncio.create_task(watched.run())
        workers = await all_ready(watched, running)
        os.kill(workers[0], signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTERM)
        return await running, workers

    status, workers = asyncio.run(run())
    assert status == 1
    assert "did not end within 1 s: killed" in caplog.text
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
