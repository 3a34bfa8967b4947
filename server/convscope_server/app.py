"""Puts the server together, and takes it from start to stop."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
)

from convscope_server.config import ServerConfig
from convscope_server.cpu import available_cpu_count
from convscope_server.dispatch import Dispatcher
from convscope_server.errors import RepositoryUnreadable, ServerError, StartupError
from convscope_server.http import HttpServer
from convscope_server.lifecycle import Lifecycle, Phase
from convscope_server.metrics import Metrics
from convscope_server.poller import Poller
from convscope_server.repository import Repository
from convscope_server.repository_folder import RepositoryFolder
from convscope_server.served_models import Models
from convscope_server.services import all_methods
from convscope_server.trace import Tracer
from convscope_server.transports.transport import Transport
from convscope_server.version_policy import VersionPolicy

log = logging.getLogger(__name__)


T = TypeVar("T", bound=Transport)


class Server(Generic[T]):
    """One server, whatever transport carries its calls: run(), or start() to stop().

    Attributes:
        port: Where gRPC listens, once started.
        metrics_port: Where HTTP listens, once started; not a worker's.
        lifecycle: Where the server stands.
        transport: What carries its calls.
    """

    def __init__(
        self,
        config: ServerConfig,
        transport: Callable[[ServerConfig, Dispatcher], T],
        *,
        is_worker: bool = False,
    ) -> None:
        """Keep the settings; must be made on the event loop that it will run on.

        Args:
            config: The settings.
            transport: Makes what carries calls to the dispatcher: a transport's class.
            is_worker: One of several that share config.port; HTTP and the metrics of
                processes are the supervisor's then.

        Raises:
            StartupError: There is no such file or folder of models.
        """
        self._made_s = time.perf_counter()
        self._config = config
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._grace_period_s = config.grace_period_s
        self.lifecycle = Lifecycle()
        self.port = config.port
        self.metrics_port = config.metrics_port
        registry = CollectorRegistry()
        if not is_worker:
            for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
                registry.register(collector)
        self._metrics = Metrics(registry)
        # For pictures and large answers; starts no thread before the first.
        self._executor = ThreadPoolExecutor(available_cpu_count(), thread_name_prefix="convscope")
        self._models = Models(config.default_model)
        try:
            folder = RepositoryFolder(config.models, VersionPolicy.parse(config.version_policy))
        except RepositoryUnreadable as error:
            raise StartupError(str(error)) from error
        self._folder = folder
        self._repository = Repository(folder, self._models, config, self._metrics)
        self._polling: asyncio.Task[None] | None = None
        self._tracer = Tracer(config.trace_file, self._executor.submit)
        methods = all_methods(
            *(config, self._models, self._repository),
            *(self.lifecycle, self._executor, self._tracer),
        )
        self._dispatcher = Dispatcher(methods, self._metrics, max_calls=config.max_concurrent_calls)
        self.transport = transport(config, self._dispatcher)
        self._http = (
            None
            if is_worker
            else HttpServer(
                registry,
                is_ready=lambda: self.lifecycle.phase is Phase.SERVING,
                loop=asyncio.get_running_loop(),
            )
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

    def take_signals(self) -> None:
        """Let SIGTERM and SIGINT interrupt(), from before the models load.

        Must be called on the event loop, in the main thread.
        """
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self.interrupt, signal_number)

    async def run(self) -> None:
        """Serve until interrupt(), then drain.

        Raises:
            StartupError: The server could not start.
        """
        try:
            # Listening is no part of what a signal cuts short: half a transport cannot be
            # stopped. Ports first: one that is taken is told before the models take their time.
            if self._http:
                await self._listen()
            loading = asyncio.ensure_future(self._load_models())
            stopping = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                await loading
                await self._open()
                await stopping
            else:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
                return
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
        if self._http:
            await self._listen()
        await self._load_models()
        await self._open()

    async def _listen(self) -> None:
        config = self._config
        self.port = await self.transport.start(config.host, config.port)
        if self._http:
            self.metrics_port = self._http.start(config.metrics_host, config.metrics_port)

    async def _open(self) -> None:
        """Take requests: the models are loaded."""
        config = self._config
        if not self._http:
            # A worker listens last: from here on, new connections come to it as to the others.
            await self._listen()
        if config.model_control == "poll":
            poller = Poller(self._repository, config.poll_interval_s)
            self._polling = asyncio.ensure_future(poller.run())
        self.lifecycle.advance(Phase.SERVING)
        where = f": gRPC on {config.host}:{self.port}, metrics on http://{config.metrics_host}:"
        log.info(
            "ready after %.2f s%s",
            time.perf_counter() - self._made_s,
            f"{where}{self.metrics_port}/metrics" if self._http else "",
        )

    async def _load_models(self) -> None:
        config = self._config
        try:
            present = await asyncio.to_thread(self._folder.names)
        except RepositoryUnreadable as error:
            raise StartupError(str(error)) from error
        if config.model_control != "explicit":
            names = present
        else:
            names = present if "*" in config.load_model else list(config.load_model)
        if not present:
            expected = "expected models as NAME/VERSION/model.onnx, VERSION a whole number"
            if config.model_control == "none":
                raise StartupError(f"{expected}, found none in {config.models}")
            log.warning("%s; there are none yet", expected)
        loads = [asyncio.ensure_future(self._repository.load(name)) for name in names]
        try:
            for load in loads:
                await self._started(load)
        finally:
            for load in loads:
                load.cancel()
        # In the other modes it may come later.
        if config.default_model and config.model_control == "none":
            try:
                self._models.status(config.default_model, "")
            except ServerError as error:
                raise StartupError(f"--default-model: {error}") from error

    async def _started(self, load: "asyncio.Future[None]") -> None:
        """Wait for a model that is loaded at the start."""
        try:
            await load
        except ServerError as error:
            if self._config.exit_on_error:
                raise StartupError(str(error)) from error
            log.error("%s; starting without it", error)

    async def drain(self, grace_period_s: float) -> None:
        """Turn away new calls, and wait for those in flight."""
        log.info("stopping: health says NOT_SERVING, calls are taken for %g s", grace_period_s)
        self.lifecycle.advance(Phase.LEAVING)
        self._stop_polling()
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
        self._stop_polling()
        # Time for Watch streams to end by themselves; nothing else is left by now, but for
        # streams that a client keeps open and calls that came this moment.
        await self.transport.stop(grace_s=0.1 if self._hurry.is_set() else 1.0)
        await self._repository.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._tracer.close)
        if self._http:
            await asyncio.to_thread(self._http.stop)
        if served:
            log.info("stopped")

    def _stop_polling(self) -> None:
        if self._polling:
            self._polling.cancel()
