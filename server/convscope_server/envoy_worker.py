"""The server inside Envoy's process: what Envoy loads as its application.

Envoy owns the process, its signals and the main thread; pyvoy runs an event loop
in a thread of its own. The server runs there, takes its orders from the launcher
over a pipe, and never outlives it.
"""

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from convscope_server.app import Server
from convscope_server.envoy_control import PIPE_VARIABLE, Failed, Handover, Note
from convscope_server.errors import ServerError
from convscope_server.log import configure_logging
from convscope_server.transports.asgi_request import Receive
from convscope_server.transports.envoy import EnvoyTransport
from convscope_server.transports.envoy_asgi import Send

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Worker:
    """The server of this process, its launcher's end of the pipe, and their thread."""

    def __init__(self) -> None:
        """Take over from the launcher; must be made on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._pipe: Connection[Any, Any] = Connection(int(os.environ.pop(PIPE_VARIABLE)))
        self._handover: Handover = self._pipe.recv()
        configure_logging(self._handover.log_level)
        transport = partial(EnvoyTransport, admin_socket=self._handover.admin_socket)
        try:
            self.server = Server(self._handover.config, transport)
        except ServerError as error:
            self._pipe.send(Failed(str(error)))
            raise
        if sys.platform == "linux":
            # Should Python hang, and the launcher be killed: Envoy then lets go of the port.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        self._pipe.send(Note.PONG)
        threading.Thread(target=self._listen, name="convscope-orders", daemon=True).start()
        self._running = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.server.run()
        except ServerError as error:
            self._pipe.send(Failed(str(error)))
        except Exception:
            log.exception("the server failed; this is a bug")
            self._pipe.send(Failed("internal error; the lines above have the details"))
        else:
            self._pipe.send(Note.STOPPED)

    def _listen(self) -> None:
        """Take orders until the launcher is gone; then so are we."""
        while True:
            try:
                order = self._pipe.recv()
            except (EOFError, OSError):
                break
            if order is Note.PING:
                self._loop.call_soon_threadsafe(partial(self._pipe.send, Note.PONG))
            else:
                self._loop.call_soon_threadsafe(self.server.interrupt, order)
        shutil.rmtree(self._handover.folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)


_worker: Worker | None = None


async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """What Envoy calls: once for its own life, and for every request."""
    global _worker
    if scope["type"] == "lifespan":
        await receive()
        # Envoy listens only after this: the server starts meanwhile, in a task of its own.
        _worker = Worker()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert _worker is not None  # noqa: S101 - pyvoy sends no request before the start
    await _worker.server.transport.app(scope, receive, send)
