"""An unmodified tritonclient against the server, over both transports."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support import open_inference
from support.servers import TRANSPORTS, RunningServer, running_server, server_process
from support.tiny_models import write_repository

from convscope_server.config import shipped_models

_SESSIONS = Path(__file__).parents[1] / "support" / "triton_inference.py"


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    models = write_repository(tmp_path_factory.mktemp("models"))
    with running_server(models, request.param) as server:
        yield server


@pytest.mark.parametrize(
    "session",
    [
        *("describe", "infer", "pictures", "classification", "asynchronous"),
        *("streaming", "strict_streaming", "shared", "regions", "errors", "logging_settings"),
    ],
)
def test_a_session_of_tritonclient_goes_as_it_should(server: RunningServer, session: str) -> None:
    """What each session does, and what it expects, is in support/triton_inference.py."""
    run(session, server)


@pytest.mark.parametrize("settings", [{"shared_memory": "off"}, {"workers": 2}], ids=str)
def test_shared_memory_that_is_refused_can_be_unregistered_all_the_same(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    """Clients begin with it, whether or not they register any."""
    models = write_repository(tmp_path)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with server_process(str(models), "--transport=grpcio", *flags) as process:
        run("no_regions", RunningServer(process.address, process.http))


def run(session: str, server: RunningServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", _SESSIONS, session, server.address],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_traces_of_the_requests_asked_for_are_in_the_file(tmp_path: Path, transport: str) -> None:
    path = tmp_path / "trace.json"
    models = write_repository(tmp_path / "models")
    with running_server(models, transport, trace_file=path) as server:
        run("tracing", server)
    objects = json.loads(path.read_text(encoding="utf-8"))
    requests, ways = objects[::2], objects[1::2]
    # Every second one, three of them; then the model's own settings, every one.
    assert [request["request_id"] for request in requests] == [
        "1",
        "3",
        "5",
        ("own" + 1000 * "x")[:256],
    ]
    assert {(request["model_name"], request["model_version"]) for request in requests} == {
        ("tiny", 1)
    }
    for request, way in zip(requests, ways, strict=True):
        assert request["id"] == way["id"]
        names = [stamp["name"] for stamp in way["timestamps"]]
        times = [stamp["ns"] for stamp in way["timestamps"]]
        assert (names[0], names[-1]) == ("REQUEST_START", "REQUEST_END")
        assert {"QUEUE_START", "COMPUTE_START", "COMPUTE_END"} < set(names)
        assert times == sorted(times)


def test_settings_can_be_fixed(tmp_path: Path) -> None:
    models = write_repository(tmp_path / "models")
    trace_file = tmp_path / "trace.json"
    with (
        running_server(models, settings_control="off", trace_file=trace_file) as server,
        grpc.insecure_channel(server.address) as channel,
        pytest.raises(grpc.RpcError, match="settings are fixed: expected --settings-control"),
    ):
        open_inference.set_trace(channel, trace_level=["TIMESTAMPS"])


def test_without_a_file_nothing_can_be_traced(tmp_path: Path) -> None:
    with (
        running_server(write_repository(tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
        pytest.raises(grpc.RpcError, match="start the server with --trace-file"),
    ):
        open_inference.set_trace(channel, trace_level=["TIMESTAMPS"])


def test_the_pages_example_runs_as_it_stands(tmp_path: Path) -> None:
    """Scores, conv1 and pool1 of the shipped model in one call."""
    page = (Path(__file__).parents[2] / "docs" / "open-inference.md").read_text(encoding="utf-8")
    example, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with running_server(shipped_models()) as server:
        script = tmp_path / "example.py"
        script.write_text(example.replace("127.0.0.1:8001", server.address), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"  # (\(.*\))", example)
    assert done.stdout.splitlines() == expected
