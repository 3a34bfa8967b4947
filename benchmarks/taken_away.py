"""Parts of the server, taken away to see what they cost: transport, ONNX Runtime, metrics."""

from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import prometheus_client

from convscope_server.backend import Float32Array, ImageArray
from convscope_server.config import ServerConfig
from convscope_server.dispatch import Dispatcher
from convscope_server.ort_backend import OrtSession


class NoTransport:
    """A transport that carries nothing: gives the server's dispatcher away.

    Attributes:
        dispatcher: The server's.
    """

    def __init__(self, config: ServerConfig, dispatcher: Dispatcher) -> None:
        """Keep the dispatcher."""
        self.dispatcher = dispatcher

    async def start(self, host: str, port: int) -> int:
        """Listen nowhere."""
        return 0

    async def drain(self) -> None:
        """Do nothing."""

    async def unsent(self) -> int:
        """None."""
        return 0

    async def stop(self, grace_s: float) -> None:
        """Do nothing."""


class Replay:
    """Instead of OrtSession.run: what it returned for the first batch of each size."""

    def __init__(self) -> None:
        """Know no answers yet."""
        self._outputs: dict[int, Sequence[Float32Array]] = {}
        self._run = OrtSession.run

    def __get__(self, session: OrtSession, _: type[OrtSession]) -> Callable[..., object]:
        """As a method of the session."""

        def run(images: ImageArray) -> Sequence[Float32Array]:
            outputs = self._outputs.get(len(images))
            if outputs is None:
                outputs = self._outputs[len(images)] = self._run(session, images)
            return outputs

        return run


def no_counting() -> "Iterator[mock._patch[object]]":
    """Patches with which counters, gauges and histograms count nothing."""

    def nothing(*_: object) -> None:
        pass

    for kind, operation in (
        (prometheus_client.Counter, "inc"),
        (prometheus_client.Gauge, "inc"),
        (prometheus_client.Gauge, "set"),
        (prometheus_client.Histogram, "observe"),
    ):
        yield mock.patch.object(kind, operation, nothing)
