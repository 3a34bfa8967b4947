"""What is measured, started in processes of its own on free ports, and ended."""

import asyncio
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from os import getloadavg, pathsep, sched_getaffinity
from pathlib import Path
from platform import machine, python_version

from convscope_server import envoy_launcher
from convscope_server.config import ServerConfig
from convscope_server.transports.envoy_admin import AdminError, EnvoyAdmin

TRANSPORTS = ("grpcio", "envoy")
_HERE = Path(__file__).parent
_LOADED = re.compile(r"model (?P<name>\S+), version \S+: loaded .* on \S+, (?P<how>.+)")


@dataclass(frozen=True, slots=True)
class Running:
    """A server.

    Attributes:
        address: Host and port of gRPC.
        process_id: Of the process that was started; it may have children.
        http: Where metrics and /readyz are; empty of an echo.
        ready_s: From the start of the process until it was ready; 0 of an echo.
        models: How each model is run, as the server's log says it; empty of an echo.
    """

    address: str
    process_id: int
    http: str = ""
    ready_s: float = 0.0
    models: Mapping[str, str] = field(default_factory=dict)

    def http_get(self, path: str) -> str:
        """What its HTTP server answers; raises if that is no success."""
        with urllib.request.urlopen(f"http://{self.http}{path}") as answer:
            return str(answer.read(), "utf-8")

    def metric(self, name: str) -> float:
        """The sum of a metric's series; 0 of an echo."""
        if not self.http:
            return 0.0
        lines = self.http_get("/metrics").splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def arguments_of(command: str) -> list[str]:
    """A command line as its words; `convscope` is the one of this environment."""
    arguments = shlex.split(command)
    if arguments[0] == "convscope":
        arguments[0] = str(Path(sys.executable).parent / "convscope")
    return arguments


@contextmanager
def convscope(command: str, *arguments: str) -> Iterator[Running]:
    """A server that is ready: the command is `convscope serve` or one that takes its flags."""
    words = [*arguments_of(command), *arguments, "--port", "0", "--metrics-port", "0"]
    started_s = time.perf_counter()
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stderr is not None  # noqa: S101
            models: dict[str, str] = {}
            for line in process.stderr:
                if how := _LOADED.search(line):
                    models[how["name"]] = how["how"]
                if "gRPC on " in line:
                    break
            else:
                raise SystemExit(f"did not start: {shlex.join(words)}")
            ready_s = time.perf_counter() - started_s
            address, _, rest = line.partition("gRPC on ")[2].partition(",")
            http = rest.partition("http://")[2].partition("/")[0]
            yield Running(address, process.pid, http, ready_s, models)
        finally:
            process.terminate()


@contextmanager
def on_grpcio(script: str, *arguments: str) -> Iterator[Running]:
    """A script beside this one that prints the port it listens on."""
    command = [sys.executable, str(_HERE / script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None  # noqa: S101
            yield Running(f"127.0.0.1:{int(process.stdout.readline())}", process.pid)
        finally:
            process.terminate()


@contextmanager
def in_envoy(application: str, variables: Mapping[str, str] | None = None) -> Iterator[Running]:
    """An ASGI application beside this script, MODULE:NAME, in Envoy as convscope configures it."""

    async def port() -> int:
        while True:
            try:
                return await EnvoyAdmin(admin_socket).port()
            except AdminError:
                await asyncio.sleep(0.05)

    with tempfile.TemporaryDirectory(prefix="convscope-") as folder:
        admin_socket = Path(folder) / "admin.sock"
        config = ServerConfig(models=Path(), port=0)
        command, environment = envoy_launcher.command(
            config, Path(folder), admin_socket, application=application
        )
        environment |= variables or {}
        environment["PYTHONPATH"] = pathsep.join(
            filter(None, [environment.get("PYTHONPATH", ""), str(_HERE)])
        )
        with subprocess.Popen(command, env=environment) as process:  # noqa: S603
            try:
                yield Running(f"127.0.0.1:{asyncio.run(port())}", process.pid)
            finally:
                process.terminate()


@contextmanager
def echo(transport: str) -> Iterator[Running]:
    """echo.py over a transport."""
    with on_grpcio("echo.py") if transport == "grpcio" else in_envoy("echo:app") as running:
        yield running


def machine_text() -> str:
    """The machine, how busy it is, and the versions that matter, in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        machine(),
    )
    versions = [f"{name} {version(name)}" for name in ("grpcio", "pyvoy", "onnxruntime")]
    return (
        f"{model}, {len(sched_getaffinity(0))} processors, load average {getloadavg()[0]:.1f} "
        f"before, Python {python_version()}, {', '.join(versions)}"
    )
