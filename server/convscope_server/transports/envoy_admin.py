"""Orders to Envoy and questions, over its admin interface on a Unix socket."""

import asyncio
import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any


class AdminError(Exception):
    """Envoy does not answer, or not as its documentation says."""


class EnvoyAdmin:
    """https://www.envoyproxy.io/docs/envoy/latest/operations/admin, as far as it is needed."""

    def __init__(self, path: Path) -> None:
        """Talk to the Envoy that listens on this socket."""
        self._path = path

    async def port(self) -> int:
        """Where the first listener listens.

        Raises:
            AdminError: It does not yet.
        """
        answer = json.loads(await self._ask("GET", "/listeners?format=json"))
        try:
            status = answer["listener_statuses"][0]
            port: int = status["local_address"]["socket_address"]["port_value"]
        except (KeyError, IndexError) as error:
            raise AdminError("no listener yet") from error
        # A listener is listed before its workers have it.
        if await self._stat("listener_manager.workers_started") != 1:
            raise AdminError("the listener has not started yet")
        return port

    async def open_requests(self) -> int:
        """Requests whose answers have not left, or not all."""
        return await self._stat("http.grpc.downstream_rq_active")

    async def drain_listeners(self) -> None:
        """Say "go away" on every connection, and soon take no new ones."""
        await self._ask("POST", "/drain_listeners?graceful&skip_exit")

    async def _stat(self, name: str) -> int:
        stats: dict[str, Any] = json.loads(
            await self._ask("GET", f"/stats?format=json&filter=^{name}$")
        )
        return sum(one["value"] for one in stats["stats"] if one.get("name") == name)

    async def _ask(self, method: str, path: str) -> bytes:
        return await asyncio.to_thread(self._exchange, method, path)

    def _exchange(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            raise AdminError(f"no answer on the admin socket: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise AdminError(f"{method} {path}: {answer.status} {answer.reason}")
        return body


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("admin", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
