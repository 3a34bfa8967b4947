"""Methods that show what a transport does, and servers of nothing else, over either transport.

Envoy loads this module as its application: the methods then run in its process,
under our own configuration of it.
"""

import asyncio
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from convscope_server import envoy_launcher
from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.config import ServerConfig
from convscope_server.dispatch import Dispatcher
from convscope_server.errors import InvalidRequest, Overloaded
from convscope_server.metrics import Metrics
from convscope_server.transports.envoy_admin import AdminError, EnvoyAdmin
from convscope_server.transports.envoy_asgi import GrpcAsgiApp
from convscope_server.transports.grpcio import GrpcioTransport

MAX_MESSAGE_BYTES = 64 << 20
# What became of calls that ended before their answer, by the message they came with.
_endings: dict[str, str] = {}


async def _echo(message: bytes, call: Call) -> bytes:
    return message


async def _describe(message: bytes, call: Call) -> bytes:
    """What the servicer sees of the call."""
    metadata = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in call.metadata.items()
    }
    remaining_s = None if call.deadline_s is None else call.deadline_s - time.monotonic()
    seen = {"metadata": metadata, "remaining_s": remaining_s, "peer": call.peer}
    return json.dumps({"method": call.method, **seen}).encode()


async def _fail(message: bytes, call: Call) -> bytes:
    if message == b"overloaded":
        raise Overloaded("full, até já: 100 %", reason="calls", retry_after_ms=123)
    if message == b"defect":
        raise KeyError("/secret/path")
    raise InvalidRequest("expected this, got that")


async def _hold(message: bytes, call: Call) -> bytes:
    """Never answer; remember how it ended, for Ending to tell."""
    name = message.decode()
    _endings[name] = "held"
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        _endings[name] = "cancelled"
        raise
    return b""


async def _ending(message: bytes, call: Call) -> bytes:
    return _endings.get(message.decode(), "").encode()


async def _inflate(message: bytes, call: Call) -> bytes:
    """As many bytes as the message says."""
    return bytes(int(message))


async def _upper(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    """Every message in upper case, as it comes; fails at "stop"."""
    async for message in messages:
        if message == b"stop":
            raise InvalidRequest("expected anything but stop")
        yield message.upper()


async def _greet(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    """Speak first; then hold the stream and remember how it ended, as Hold does."""
    yield b"hello"
    name = (await anext(messages)).decode()
    _endings[name] = "held"
    try:
        yield b"held"
        await asyncio.sleep(3600)
    except (asyncio.CancelledError, GeneratorExit):
        _endings[name] = "cancelled"
        raise


_produced = 0


async def _pour(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    """Megabytes without end."""
    global _produced
    async for _ in messages:
        while True:
            _produced += 1
            yield bytes(1 << 20)


async def _poured(message: bytes, call: Call) -> bytes:
    return str(_produced).encode()


async def _swallow(messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    """Take one message and no more, until the caller gives up."""
    yield str(len(await anext(messages))).encode()
    await asyncio.sleep(3600)


METHODS: Methods = {
    "/test.Wire/Echo": Unary(_echo),
    "/test.Wire/Describe": Unary(_describe),
    "/test.Wire/Fail": Unary(_fail),
    "/test.Wire/Hold": Unary(_hold),
    "/test.Wire/Ending": Unary(_ending),
    "/test.Wire/Inflate": Unary(_inflate),
    "/test.Wire/Upper": Stream(_upper),
    "/test.Wire/Greet": Stream(_greet),
    "/test.Wire/Pour": Stream(_pour),
    "/test.Wire/Poured": Unary(_poured),
    "/test.Wire/Swallow": Stream(_swallow),
}


def _dispatcher() -> Dispatcher:
    return Dispatcher(METHODS, Metrics(CollectorRegistry()), max_calls=10_000)


_application: GrpcAsgiApp | None = None


async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """What Envoy calls."""
    global _application
    if scope["type"] == "lifespan":
        await receive()
        _application = GrpcAsgiApp(_dispatcher(), max_message_bytes=MAX_MESSAGE_BYTES)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        assert _application is not None
        await _application(scope, receive, send)


@contextmanager
def wire_server(transport: str, **settings: Any) -> Iterator[tuple[str, int]]:
    """Serve METHODS; gives the address and the id of the process that serves."""
    config = ServerConfig(models=Path(), port=0, max_message_bytes=MAX_MESSAGE_BYTES, **settings)
    with _envoy(config) if transport == "envoy" else _grpcio(config) as (port, pid):
        yield f"127.0.0.1:{port}", pid


@contextmanager
def _grpcio(config: ServerConfig) -> Iterator[tuple[int, int]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server")
    thread.start()

    async def start() -> tuple[GrpcioTransport, int]:
        transport = GrpcioTransport(config, _dispatcher())
        return transport, await transport.start(config.host, config.port)

    try:
        transport, port = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        yield port, os.getpid()
        asyncio.run_coroutine_threadsafe(transport.stop(0.1), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


@contextmanager
def _envoy(config: ServerConfig) -> Iterator[tuple[int, int]]:
    with tempfile.TemporaryDirectory(prefix="convscope-") as folder:
        admin_socket = Path(folder) / "admin.sock"
        command, environment = envoy_launcher.command(
            config, Path(folder), admin_socket, application="support.wire_methods:app"
        )
        tests = str(Path(__file__).parents[1])
        environment["PYTHONPATH"] += os.pathsep + tests
        with subprocess.Popen(command, env=environment, cwd=folder) as process:
            try:
                yield asyncio.run(_port(admin_socket, process)), process.pid
            finally:
                process.terminate()


async def _port(admin_socket: Path, process: "subprocess.Popen[bytes]") -> int:
    while True:
        try:
            return await EnvoyAdmin(admin_socket).port()
        except AdminError:
            assert process.poll() is None, "Envoy ended before it listened"
            await asyncio.sleep(0.01)
