"""A real server on free ports, on an event loop of its own in a thread of its own."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convscope_server.app import Server
from convscope_server.config import ServerConfig


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready; address and metrics_url reach it."""

    server: Server
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.server.metrics_port}"


@contextmanager
def running_server(models: Path, **settings: Any) -> Iterator[RunningServer]:
    """Serve a model folder on free ports; stops at the end."""
    config = ServerConfig(models=models, **{"port": 0, "metrics_port": 0, **settings})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server")
    thread.start()

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    async def make() -> Server:
        return Server(config)

    try:
        server = wait(make())
        try:
            wait(server.start())
            yield RunningServer(server, loop)
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
