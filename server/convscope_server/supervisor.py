"""Several worker processes on one port: starts, watches, restarts and ends them.

Small on purpose, and far from anything that computes: what kills a worker must not
reach it. It imports neither gRPC nor ONNX Runtime nor numpy.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from convscope_server.config import ServerConfig
from convscope_server.cpu import available_cpu_count
from convscope_server.errors import StartupError
from convscope_server.http import HttpServer
from convscope_server.restarts import MAX_FAILED_STARTS, Restarts
from convscope_server.shared_port import shared_port
from convscope_server.worker_link import WorkerSettings
from convscope_server.worker_metrics import WorkerMetrics
from convscope_server.worker_process import WorkerProcess, how_it_ended

log = logging.getLogger(__name__)

_TICK_S = 1.0
# /healthz fails when an event loop has been silent for so many ticks.
_HUNG_TICKS = 3
# And so many end its process. Its share of the connections would be lost for ever, while
# whoever restarts the whole server for it would break those of the other workers too.
# Long enough for a machine that is only overloaded.
_KILL_TICKS = 30
# Beyond the grace period and the drain timeout, for a worker to end by itself.
_END_MARGIN_S = 5.0
# Memory, where there is such a folder: metrics in files on a disk would wait for it.
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - the folder made in it is private


class Supervisor:
    """N workers that listen on the same port, and HTTP for all of them."""

    def __init__(self, config: ServerConfig, log_level: str) -> None:
        """Keep the settings; nothing is started.

        Raises:
            StartupError: This system cannot share a port.
        """
        if not sys.platform.startswith("linux"):
            raise StartupError(
                f"expected --workers 1, got {config.workers}: only Linux spreads the connections "
                f"of one port over processes, and this is {sys.platform}"
            )
        self._config = config
        self._log_level = log_level
        self._workers: dict[int, WorkerProcess] = {}
        self._was_ready = False
        self._stop = asyncio.Event()
        self._clean = True

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then let the workers drain; a second signal hurries.

        Returns:
            The exit status: 0, or 1 when a worker did not end as it should.

        Raises:
            StartupError: The server could not start, or a worker cannot be brought back.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self._interrupted, signal_number)
        with shared_port(config.host, config.port) as port, _metrics_folder() as folder:
            self._metrics = WorkerMetrics(
                folder, lambda: [worker.process_id for worker in [*self._workers.values()]]
            )
            http = HttpServer(
                self._metrics.registry, is_ready=self._is_ready, loop=loop, hung=self._hung
            )
            metrics_port = http.start(config.metrics_host, config.metrics_port)
            where = f"gRPC on {config.host}:{port}, metrics on http://{config.metrics_host}:"
            try:
                await self._serve(port, folder, f"{where}{metrics_port}/metrics")
            finally:
                await asyncio.to_thread(http.stop)
        log.info("stopped")
        return 0 if self._clean else 1

    async def _serve(self, port: int, folder: Path, where: str) -> None:
        config = self._config
        started_s = time.perf_counter()

        def worker_ready() -> None:
            if not self._was_ready and self._is_ready():
                self._was_ready = True
                taken_s = time.perf_counter() - started_s
                log.info("ready after %.2f s: %s, %d workers", taken_s, where, config.workers)

        # Each worker has a share of the processors: threads that wait for one another's
        # processor only add to what there is to do.
        threads = config.thread_count or max(1, available_cpu_count() // config.workers)
        worker_config = replace(config, port=port, thread_count=threads)
        keepers = []
        for number in range(1, config.workers + 1):
            settings = WorkerSettings(
                number=number,
                config=worker_config,
                log_level=self._log_level,
                metrics_folder=folder,
            )
            keepers.append(asyncio.create_task(self._keep(settings, worker_ready)))
        stopping = asyncio.create_task(self._stop.wait())
        watching = asyncio.create_task(self._watch())
        # A keeper ends by itself only when it gives up.
        await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
        if not self._stop.is_set():
            self._stop.set()
            self._send_all(signal.SIGTERM if self._was_ready else signal.SIGKILL)
        patience_s = config.grace_period_s + config.drain_timeout_s + _END_MARGIN_S
        _, late = await asyncio.wait(keepers, timeout=patience_s)
        if late:
            log.error("%d workers did not end within %g s: killed", len(late), patience_s)
            self._send_all(signal.SIGKILL)
            await asyncio.wait(late)
        watching.cancel()
        for error in [keeper.exception() for keeper in keepers]:
            if error:
                raise error

    async def _keep(self, settings: WorkerSettings, worker_ready: Callable[[], None]) -> None:
        """Run one worker, again and again, until the server stops.

        Raises:
            StartupError: It cannot be brought up.
        """
        number = settings.number
        restarts = Restarts()
        while True:
            worker = self._workers[number] = WorkerProcess(worker_ready)
            try:
                await worker.start(settings)
            except OSError as error:
                raise StartupError(f"worker {number} cannot start: {error.strerror}") from error
            if self._stop.is_set():  # the signal came while the process was made
                worker.send(signal.SIGTERM)
            status = await worker.ended(number)
            del self._workers[number]
            self._metrics.worker_ended(number)
            how = how_it_ended(status)
            if self._stop.is_set():
                if self._was_ready and status not in (0, -signal.SIGTERM):
                    log.error("worker %d %s while the server stopped", number, how)
                    self._clean = False
                return
            if not self._was_ready:
                raise StartupError(
                    worker.failure or f"worker {number} {how} before the server was ready"
                )
            delay_s = restarts.delay_s(lived_s=worker.lived_s, was_ready=worker.was_ready)
            if delay_s is None:
                raise StartupError(
                    f"worker {number} ended {MAX_FAILED_STARTS} times in a row before it was "
                    f"ready, the last time so: {worker.failure or how}"
                )
            reason = f": {worker.failure}" if worker.failure else ""
            log.error("worker %d %s%s; starts again in %g s", number, how, reason, delay_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)
                return
            self._metrics.restarts.inc()

    async def _watch(self) -> None:
        """Kill workers whose event loop hangs.

        Ticks are counted, not seconds: when this process was stopped for a while, the
        workers' messages of that time are still in the pipes.
        """
        while True:
            await asyncio.sleep(_TICK_S)
            for number, worker in self._workers.items():
                worker.silent_ticks += 1
                if worker.silent_ticks == _KILL_TICKS:
                    log.error("worker %d: its event loop hangs: killed", number)
                    worker.send(signal.SIGKILL)

    def _interrupted(self, signal_number: int) -> None:
        if not self._stop.is_set():
            log.info("stopping: %d workers drain", len(self._workers))
        self._stop.set()
        self._send_all(signal_number)

    def _send_all(self, signal_number: int) -> None:
        for worker in self._workers.values():
            worker.send(signal_number)

    def _is_ready(self) -> bool:
        ready = sum(worker.ready for worker in [*self._workers.values()])
        return ready == self._config.workers and not self._stop.is_set()

    def _hung(self) -> str:
        for number, worker in [*self._workers.items()]:
            if worker.ready and worker.silent_ticks >= _HUNG_TICKS:
                return f"the event loop of worker {number}"
        return ""


@contextmanager
def _metrics_folder() -> Iterator[Path]:
    memory = _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else None
    try:
        folder = Path(tempfile.mkdtemp(prefix="convscope-metrics-", dir=memory))
    except OSError as error:
        raise StartupError(
            f"expected to make a folder for the workers' metrics: {error.strerror}; "
            "set TMPDIR to one that can be written"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
