"""The two processes of `convscope serve --transport envoy`, and one without the other."""

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from support.servers import CONVSCOPE, ServerProcess, server_process
from support.tiny_models import write_repository

from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc
from convscope_server import envoy_launcher, serving
from convscope_server.config import ServerConfig
from convscope_server.errors import StartupError

# Where pyvoy has wheels and /proc shows the child; there it must run.
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="Envoy with Python inside runs on Linux, and /proc shows its process",
)


@pytest.fixture
def models(tmp_path: Path) -> str:
    return str(write_repository(tmp_path / "models"))


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where servers keep their temporary files; not tmp_path, since sockets need short names."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie: whoever inherits it here may not reap it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_an_end_with_a_signal_leaves_no_process_and_no_file(models: str, folders: Path) -> None:
    with server_process(models, "--transport=envoy", "--grace-period-s=0") as server:
        envoy = server.envoy_pid
        assert list(folders.iterdir())
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_until_ended() == 0
    assert not is_running(envoy)
    assert not list(folders.iterdir())


def test_when_envoy_is_killed_the_launcher_says_so_and_fails(models: str, folders: Path) -> None:
    with server_process(models, "--transport=envoy") as server:
        os.kill(server.envoy_pid, signal.SIGKILL)
        assert server.wait_until_ended() == 1
    assert server.log[-1].startswith("Error: the server's process ended by itself, killed by SIGK")
    assert not list(folders.iterdir())


def test_when_the_launcher_is_killed_envoy_goes_with_it(models: str, folders: Path) -> None:
    with server_process(models, "--transport=envoy") as server:
        envoy = server.envoy_pid
        server.process.kill()
        server.wait_until_ended()
        while is_running(envoy):
            time.sleep(0.01)
    assert not list(folders.iterdir())
    port = server.address.rpartition(":")[2]
    with server_process(models, "--transport=envoy", f"--port={port}"):
        pass  # the port is free again


@contextmanager
def application(models: str, folder: Path, source: str) -> Iterator[ServerProcess]:
    """`convscope serve` with this module as Envoy's application, and pings twice a second."""
    (folder / "changed_worker.py").write_text(source, encoding="utf-8")
    start = (
        "import convscope_server.envoy_launcher as launcher\n"
        "launcher._PING_INTERVAL_S = 0.5\n"
        "launcher.command.__defaults__ = ('changed_worker:app',)\n"
        "from convscope_client.cli.main import main\n"
        "main()"
    )
    command = [sys.executable, "-c", start, "serve", models, "--transport=envoy"]
    command += ["--port=0", "--metrics-port=0"]
    paths = os.pathsep.join([str(folder), *sys.path])
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        try:
            yield ServerProcess(process)
        finally:
            process.kill()


def test_a_hung_server_is_killed(models: str, tmp_path: Path) -> None:
    """SIGSTOP is the perfect hang: nothing answers, and nothing ends."""
    with application(models, tmp_path, "from convscope_server.envoy_worker import app") as server:
        server.wait_until_ready()
        envoy = server.envoy_pid
        os.kill(envoy, signal.SIGSTOP)
        assert server.wait_until_ended() == 1
    assert "Error: the server hung" in server.log[-1]
    assert not is_running(envoy)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no GPU today')", "RuntimeError: no GPU today"),
        ("import absent_module", "No module named 'absent_module'"),
        ("async def app(*_): raise OSError('no disk')", "OSError: no disk"),
    ],
    ids=["at import", "module missing", "at start"],
)
def test_python_that_dies_before_it_serves_says_why(
    models: str, tmp_path: Path, source: str, reason: str
) -> None:
    with application(models, tmp_path, source) as server:
        assert server.wait_until_ended() == 1
    assert any(reason in line for line in server.log)
    assert server.log[-1].startswith("Error: the server did not start, exit status 1: the lines")


HANGS = """
import time
from convscope_server import envoy_worker

async def app(scope, receive, send):
    if scope.get("path") == "/hang":
        time.sleep(3600)
    await envoy_worker.app(scope, receive, send)
"""


@pytest.mark.parametrize("death", ["crash", "hang"])
def test_calls_in_flight_are_told_when_the_server_dies(
    models: str, tmp_path: Path, death: str
) -> None:
    """UNAVAILABLE, at which clients try again; and the operator has one line."""
    with application(models, tmp_path, HANGS) as server:
        server.wait_until_ready()
        envoy = server.envoy_pid
        with grpc.insecure_channel(server.address) as channel:
            messages: SimpleQueue[pb.ClassifyRequest | None] = SimpleQueue()
            stub = pb_grpc.ClassifierStub(channel)
            call = stub.ClassifyStream(iter(messages.get, None), timeout=60)
            messages.put(pb.ClassifyRequest(id="in flight"))
            assert next(call).error.id == "in flight"
            if death == "crash":
                os.kill(envoy, signal.SIGSEGV)
            else:
                hang: Any = channel.unary_unary("/hang")
                hang.future(b"")
            with pytest.raises(grpc.RpcError):
                next(call)
            assert call.code() is grpc.StatusCode.UNAVAILABLE
            messages.put(None)
        assert server.wait_until_ended() == 1
    assert not is_running(envoy)
    expected = "ended by itself, killed by SIGSEGV" if death == "crash" else "the server hung"
    assert expected in server.log[-1]


def test_a_relative_model_folder_is_where_the_server_was_started(
    models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(models).parent)
    with (
        server_process("models", "--transport=envoy") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        listed = pb_grpc.ClassifierStub(channel).ListModels(pb.ListModelsRequest(), timeout=10)
        assert listed.default_model_name == "tiny"


def test_the_configuration_is_printed_whole() -> None:
    printed = subprocess.run(
        [CONVSCOPE, "serve", "--print-envoy-config", "--port=1234"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    (listener,) = json.loads(printed.stdout)["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 1234}
    assert listener["enable_reuse_port"] is False


def test_auto_is_envoy_where_it_can_run_and_else_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig(models=Path())
    assert serving.transport_of(config) == "envoy"
    monkeypatch.setattr(envoy_launcher, "find_spec", lambda name: None)
    assert serving.transport_of(config) == "grpcio"
    with pytest.raises(StartupError, match="expected pyvoy, which is not installed: pip install"):
        serving.serve(ServerConfig(models=Path(), transport="envoy"), "info")
