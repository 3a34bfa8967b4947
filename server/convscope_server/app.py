"""Puts the server together, and takes it from start to stop."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
)

from convscope_server.config import ServerConfig
from convscope_server.dispatch import Dispatcher
from convscope_server.errors import ServerError, StartupError
from convscope_server.http import HttpServer
from convscope_server.lifecycle import Lifecycle, Phase
from convscope_server.loading import load_model
from convscope_server.metrics import Metrics
from convscope_server.repository import Models, find_models
from convscope_server.servicers import classifier, health, reflection
from convscope_server.transports.transport import Transport

log = logging.getLogger(__name__)


T = TypeVar("T", bound=Transport)


class Server(Generic[T]):
    """One server, whatever transport carries its calls: run(), or start() to stop().

    Attributes:
        port: Where gRPC listens, once started.
        metrics_port: Where HTTP listens, once started.
        lifecycle: Where the server stands.
        transport: What carries its calls.
    """

    def __init__(
        self, config: ServerConfig, transport: Callable[[ServerConfig, Dispatcher], T]
    ) -> None:
        """Keep the settings; must be made on the event loop that it will run on.

        Args:
            config: The settings.
            transport: Makes what carries calls to the dispatcher: a transport's class.
        """
        self._config = config
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._grace_period_s = config.grace_period_s
        self.lifecycle = Lifecycle()
        self.port = config.port
        self.metrics_port = config.metrics_port
        registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            registry.register(collector)
        self._metrics = Metrics(registry)
        self._models = Models(config.default_model)
        services = (classifier.SERVICE, health.SERVICE, reflection.SERVICE)
        self._dispatcher = Dispatcher(
            {
                **classifier.ClassifierServicer(
                    self._models,
                    self.lifecycle,
                    max_batch_size=config.max_batch_size,
                    max_message_bytes=config.max_message_bytes,
                    max_picture_pixels=config.max_picture_pixels,
                ).methods(),
                **health.HealthServicer(
                    self.lifecycle, self._models, frozenset(services)
                ).methods(),
                **reflection.ReflectionServicer(services).methods(),
            },
            self._metrics,
        )
        self.transport = transport(config, self._dispatcher)
        self._http = HttpServer(
            registry,
            is_ready=lambda: self.lifecycle.phase is Phase.SERVING,
            loop=asyncio.get_running_loop(),
        )

    def interrupt(self, signal_number: int) -> None:
        """Do what a signal asks run() for: SIGTERM drains, SIGINT skips the grace period.

        A second one waits for nothing. Must be called on the event loop.
        """
        if signal_number == signal.SIGINT or self._stop.is_set():
            self._grace_period_s = 0  # whoever presses Ctrl-C is not a load balancer
        if self._stop.is_set():
            log.warning("second signal: not waiting for calls in flight")
            self._hurry.set()
        self._stop.set()

    async def run(self) -> None:
        """Serve until interrupt(), then drain.

        Raises:
            StartupError: The server could not start.
        """
        try:
            starting = asyncio.ensure_future(self.start())
            stopping = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            await starting
            await stopping
            draining = asyncio.ensure_future(self.drain(self._grace_period_s))
            hurrying = asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait((draining, hurrying), return_when=asyncio.FIRST_COMPLETED)
            hurrying.cancel()
            draining.cancel()
        finally:
            await self.stop()

    async def start(self) -> None:
        """Listen, load the models, serve.

        Raises:
            StartupError: A port is taken, or a model cannot be served.
        """
        config = self._config
        started_s = time.perf_counter()
        # Ports first: one that is taken is told before the models take their time.
        self.port = await self.transport.start(config.host, config.port)
        self.metrics_port = self._http.start(config.metrics_host, config.metrics_port)
        sources = await asyncio.to_thread(find_models, config.models)
        for source in sources:
            self._models.add(await load_model(source, config, self._metrics))
        if config.default_model:
            try:
                self._models.get(config.default_model, "")
            except ServerError as error:
                raise StartupError(f"--default-model: {error}") from error
        self.lifecycle.advance(Phase.SERVING)
        self._metrics.ready.set(1)
        log.info(
            "ready after %.2f s: gRPC on %s:%d, metrics on http://%s:%d/metrics",
            time.perf_counter() - started_s,
            config.host,
            self.port,
            config.metrics_host,
            self.metrics_port,
        )

    async def drain(self, grace_period_s: float) -> None:
        """Turn away new calls, and wait for those in flight."""
        log.info("stopping: health says NOT_SERVING, calls are taken for %g s", grace_period_s)
        self.lifecycle.advance(Phase.LEAVING)
        self._metrics.ready.set(0)
        await asyncio.sleep(grace_period_s)
        self.lifecycle.advance(Phase.DRAINING)
        await self.transport.drain()
        deadline_s = time.monotonic() + self._config.drain_timeout_s
        while (
            self._dispatcher.in_flight or await self.transport.unsent()
        ) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        if self._dispatcher.in_flight:
            log.warning(
                "%d calls still in flight after %g s: cancelled",
                self._dispatcher.in_flight,
                self._config.drain_timeout_s,
            )

    async def stop(self) -> None:
        """Stop at once: cancel what is in flight, free ports and threads."""
        served = self.lifecycle.phase is not Phase.STARTING
        self.lifecycle.advance(Phase.STOPPED)
        # Time for Watch streams to end by themselves; nothing else is left by now, but for
        # streams that a client keeps open and calls that came this moment.
        await self.transport.stop(grace_s=0.1 if self._hurry.is_set() else 1.0)
        for model in self._models.all():
            await model.close()
        await asyncio.to_thread(self._http.stop)
        if served:
            log.info("stopped")
