"""Real servers on free ports: in this process, or as `convscope serve`, over either transport."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from convscope_server import envoy_launcher
from convscope_server.app import Server
from convscope_server.config import ServerConfig
from convscope_server.transports.grpcio import GrpcioTransport

_WHY_NOT_ENVOY = envoy_launcher.why_not()
# Wire tests run over both: what differs is a defect of one.
TRANSPORTS = (
    pytest.param("grpcio"),
    pytest.param("envoy", marks=pytest.mark.skipif(bool(_WHY_NOT_ENVOY), reason=_WHY_NOT_ENVOY)),
)


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready.

    Attributes:
        address: Where it takes gRPC, HOST:PORT.
        http: Where it takes HTTP, http://HOST:PORT.
    """

    address: str
    http: str

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def metrics_port(self) -> int:
        return int(self.http.rpartition(":")[2])


@contextmanager
def running_server(
    models: Path, transport: str = "grpcio", **settings: Any
) -> Iterator[RunningServer]:
    """Serve a model folder on free ports; stops at the end.

    Over grpcio on an event loop in a thread of this process; over Envoy, which is
    a process of its own, as `convscope serve`.
    """
    if transport == "envoy":
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        with server_process(str(models), "--transport=envoy", *flags) as process:
            yield RunningServer(process.address, process.http)
            process.process.send_signal(signal.SIGINT)
            assert process.wait_until_ended() == 0, process.log
        return
    config = ServerConfig(models=models, **{"port": 0, "metrics_port": 0, **settings})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server")
    thread.start()

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    async def make() -> Server[GrpcioTransport]:
        return Server(config, GrpcioTransport)

    try:
        server = wait(make())
        try:
            wait(server.start())
            yield RunningServer(
                f"127.0.0.1:{server.port}", f"http://127.0.0.1:{server.metrics_port}"
            )
        finally:
            wait(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


CONVSCOPE = str(Path(sys.executable).parent / "convscope")
_READY = re.compile(r"ready after .*gRPC on (\S+:\d+), metrics on (http://\S+)/metrics")


@dataclass
class ServerProcess:
    """`convscope serve` as an operator starts it."""

    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)
    address: str = ""
    http: str = ""

    @property
    def envoy_pid(self) -> int:
        """The process that serves, with Envoy: the only child, on Linux."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def wait_until_ready(self) -> None:
        """Read the log up to the line that says where it listens."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if found := _READY.search(line):
                self.address, self.http = found.groups()
                return
        raise AssertionError("the server ended before it was ready:\n" + "\n".join(self.log))

    def wait_until_ended(self, timeout_s: float = 60) -> int:
        """Read the rest of the log; returns the exit status."""
        _, rest = self.process.communicate(timeout=timeout_s)
        self.log += rest.splitlines()
        return self.process.returncode


@contextmanager
def server_process(*arguments: str, wait: bool = True) -> Iterator[ServerProcess]:
    """Run `convscope serve` on free ports ; killed at the end if need be."""
    command = [CONVSCOPE, "serve", "--port", "0", "--metrics-port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        server = ServerProcess(process)
        try:
            if wait:
                server.wait_until_ready()
            yield server
        finally:
            if process.poll() is None:
                process.kill()
