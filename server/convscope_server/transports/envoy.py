"""Envoy as a transport: the part inside its process, where Python and the server run.

What starts that process and ends it is envoy_launcher.py.
"""

import asyncio
import logging
import time
from pathlib import Path

from convscope_server.config import ServerConfig
from convscope_server.dispatch import Dispatcher
from convscope_server.errors import StartupError
from convscope_server.transports.envoy_admin import AdminError, EnvoyAdmin
from convscope_server.transports.envoy_asgi import GrpcAsgiApp

log = logging.getLogger(__name__)

# Envoy listens some hundredths of a second after it has loaded its configuration.
_LISTENS_WITHIN_S = 10.0


class EnvoyTransport:
    """The Envoy whose process this is; it listens before and after anything here.

    Attributes:
        app: What Envoy calls for every request.
    """

    def __init__(self, config: ServerConfig, dispatcher: Dispatcher, admin_socket: Path) -> None:
        """Carry calls to the dispatcher; orders to Envoy go over the admin socket."""
        self.app = GrpcAsgiApp(dispatcher, max_message_bytes=config.max_message_bytes)
        self._admin = EnvoyAdmin(admin_socket)

    async def start(self, host: str, port: int) -> int:
        """Wait until Envoy listens; returns the port, which it chose if that was 0.

        Raises:
            StartupError: It does not.
        """
        deadline_s = time.monotonic() + _LISTENS_WITHIN_S
        while True:
            try:
                return await self._admin.port()
            except AdminError as error:
                if time.monotonic() > deadline_s:
                    raise StartupError(f"Envoy does not listen: {error}") from error
            await asyncio.sleep(0.005)

    async def drain(self) -> None:
        """Tell clients to go elsewhere; calls that still come are still carried."""
        try:
            await self._admin.drain_listeners()
        except AdminError as error:
            log.warning("clients are not told to go: %s", error)

    async def unsent(self) -> int:
        """Calls that are answered, but not taken by their callers; streams do not count."""
        try:
            return max(0, await self._admin.open_requests() - self.app.open_streams)
        except AdminError as error:
            log.warning("not waiting for answers to leave: %s", error)
            return 0

    async def stop(self, grace_s: float) -> None:
        """Wait this long for streams to end by themselves; the launcher ends Envoy itself."""
        deadline_s = time.monotonic() + grace_s
        while self.app.open_streams and time.monotonic() < deadline_s:
            await asyncio.sleep(0.005)
        while await self.unsent() and time.monotonic() < deadline_s:
            await asyncio.sleep(0.005)
