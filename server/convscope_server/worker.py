"""One worker process of several: a server without HTTP, which the supervisor starts."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

from prometheus_client import values

from convscope_server.app import Server
from convscope_server.errors import StartupError
from convscope_server.lifecycle import Phase
from convscope_server.log import configure_logging
from convscope_server.transports.grpcio import GrpcioTransport
from convscope_server.worker_link import (
    BEAT,
    BEAT_INTERVAL_S,
    FAILED,
    READY,
    WorkerSettings,
)


def main() -> int:
    """Serve until the supervisor says stop, or is gone; returns the exit status."""
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: sys.exit(0))
    # What a library prints must not be taken for a message: it goes to the log.
    supervisor = os.dup(1)
    os.dup2(2, 1)
    settings = WorkerSettings.from_file(sys.stdin.buffer)
    configure_logging(settings.log_level)
    _share_metrics(settings)
    threading.Thread(
        target=_end_with_supervisor, args=(settings.metrics_folder,), daemon=True
    ).start()
    try:
        asyncio.run(_serve(settings, supervisor))
    except StartupError as error:
        os.write(supervisor, FAILED + str(error).replace("\n", " ").encode() + b"\n")
        return 1
    return 0


async def _serve(settings: WorkerSettings, supervisor: int) -> None:
    os.set_blocking(supervisor, False)
    server = Server(settings.config, partial(GrpcioTransport, shares_port=True), is_worker=True)
    server.take_signals()
    beating = asyncio.create_task(_beat(supervisor))
    telling = asyncio.create_task(_tell_ready(server, supervisor))
    try:
        await server.run()
    finally:
        beating.cancel()
        telling.cancel()
        os.set_blocking(supervisor, True)


async def _beat(supervisor: int) -> None:
    while True:
        # A supervisor that does not read for hours has filled the pipe, or is gone, and
        # then _end_with_supervisor knows.
        with contextlib.suppress(OSError):
            os.write(supervisor, BEAT + b"\n")
        await asyncio.sleep(BEAT_INTERVAL_S)


async def _tell_ready(server: Server[GrpcioTransport], supervisor: int) -> None:
    await server.lifecycle.left(Phase.STARTING)
    if server.lifecycle.phase is Phase.SERVING:
        os.write(supervisor, READY + b"\n")


def _share_metrics(settings: WorkerSettings) -> None:
    """Keep every metric that is made from now on in files that the supervisor reads.

    They are named by the worker's number instead of the process, so that a restarted
    worker goes on counting where its predecessor stopped, and no file is left over.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(settings.metrics_folder)
    values.ValueClass = values.MultiProcessValue(lambda: settings.number)  # type: ignore[no-untyped-call]
    # prometheus_client says so for each series; worker_metrics.py leaves them out.
    warnings.filterwarnings("ignore", message="Removal of labels has not been implemented")


def _end_with_supervisor(metrics_folder: Path) -> None:
    """End at once when the supervisor is gone: nobody would ever stop this process."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    shutil.rmtree(metrics_folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
