"""convscope's transports and dispatcher with nothing behind them: an echo like echo.py's.

    python benchmarks/dispatched.py BYTES

is the transport grpcio, which prints the port it listens on; `app` is the application
of the transport envoy, and the environment variable ANSWER_BYTES is its BYTES.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo import lifespan
from prometheus_client import CollectorRegistry

from convscope_server.call import Call, Unary
from convscope_server.config import ServerConfig
from convscope_server.dispatch import Dispatcher
from convscope_server.metrics import Metrics
from convscope_server.transports.envoy_asgi import GrpcAsgiApp
from convscope_server.transports.grpcio import GrpcioTransport

METHOD = "/echo.Dispatched/Unary"
BYTES_VARIABLE = "ANSWER_BYTES"
_CONFIG = ServerConfig(models=Path(), port=0)


def dispatcher(answer_bytes: int) -> Dispatcher:
    """A dispatcher of METHOD alone, which answers with so many bytes."""
    answer = bytes(answer_bytes)

    async def handle(message: bytes, call: Call) -> bytes:
        return answer

    return Dispatcher(
        {METHOD: Unary(handle)},
        Metrics(CollectorRegistry()),
        max_calls=_CONFIG.max_concurrent_calls,
    )


_app: GrpcAsgiApp | None = None


async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Echo; inside Envoy."""
    global _app
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if _app is None:
        answer_bytes = int(os.environ[BYTES_VARIABLE])
        _app = GrpcAsgiApp(dispatcher(answer_bytes), max_message_bytes=_CONFIG.max_message_bytes)
    await _app(scope, receive, send)


async def _serve(answer_bytes: int) -> None:
    transport = GrpcioTransport(_CONFIG, dispatcher(answer_bytes))
    print(await transport.start("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
