"""grpc.health.v1: Check and Watch, for the server, its services and each model."""

import asyncio
from collections.abc import AsyncIterator

from grpc_health.v1 import health_pb2

from convscope_server import codec
from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.errors import InvalidRequest, UnknownModel
from convscope_server.lifecycle import Lifecycle, Phase
from convscope_server.served_models import Models

SERVICE = "grpc.health.v1.Health"
_Response = health_pb2.HealthCheckResponse


class HealthServicer:
    """Tells from the server's phase and its models; keeps no state of its own."""

    def __init__(self, lifecycle: Lifecycle, models: Models, services: frozenset[str]) -> None:
        """Answer for "" (the server), for these services, and for models by name."""
        self._lifecycle = lifecycle
        self._models = models
        self._services = services | {""}

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/Check": Unary(self.check, unlimited=True),
            f"/{SERVICE}/Watch": Stream(self.watch, grpc_type="server_stream"),
        }

    async def check(self, message: bytes, call: Call) -> bytes:
        """Tell one status; an unknown service is NOT_FOUND, as the protocol says."""
        service = codec.parse(health_pb2.HealthCheckRequest, message).service
        status = self._status(service)
        if status == _Response.SERVICE_UNKNOWN:
            raise UnknownModel(f"unknown service or model {service[:100]!r}")
        return _encode(status)

    async def watch(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Tell a status now and at every change, until the server stops."""
        message = await anext(messages, None)
        if message is None:
            raise InvalidRequest("expected a HealthCheckRequest, got none")
        service = codec.parse(health_pb2.HealthCheckRequest, message).service
        told = None
        while True:
            phase, revision = self._lifecycle.phase, self._models.revision
            status = self._status(service)
            if status != told:
                yield _encode(status)
                told = status
            if phase is Phase.STOPPED:
                return
            await self._change(phase, revision)

    async def _change(self, phase: Phase, revision: int) -> None:
        """Wait until the server's phase or any model is no longer as it was."""
        waits = (
            asyncio.ensure_future(self._lifecycle.left(phase)),
            asyncio.ensure_future(self._models.changed_since(revision)),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _status(self, service: str) -> "health_pb2.HealthCheckResponse.ServingStatus.ValueType":
        if service not in self._services:
            if not self._models.statuses(service):
                return _Response.SERVICE_UNKNOWN
            if not self._models.versions(service):
                return _Response.NOT_SERVING
        serving = self._lifecycle.phase is Phase.SERVING
        return _Response.SERVING if serving else _Response.NOT_SERVING


def _encode(status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType") -> bytes:
    message: bytes = _Response(status=status).SerializeToString()
    return message
