"""One worker as the supervisor sees it: a process, its messages, its log."""

import asyncio
import contextlib
import re
import signal
import sys
import time
from collections.abc import Callable

from convscope_server.worker_link import BEAT, FAILED, READY, WorkerSettings

# Where a log line's time and level end, as log.py writes them.
_LINE_START = re.compile(rb"\S+Z [A-Z]+ +")


class WorkerProcess:
    """One process from its start to its end.

    Attributes:
        ready: Whether it takes requests.
        was_ready: Whether it ever did.
        failure: Why it could not start, in its own words; empty if it said nothing.
        silent_ticks: Set to 0 whenever its event loop says that it runs; the supervisor
            counts upwards.
    """

    def __init__(self, on_ready: Callable[[], None]) -> None:
        """Start nothing yet; on_ready is called once, when it takes requests."""
        self.ready = False
        self.was_ready = False
        self.failure = ""
        self.silent_ticks = 0
        self._on_ready = on_ready
        self._process: asyncio.subprocess.Process | None = None
        self._started_s = 0.0
        self._hears_signals = False

    @property
    def process_id(self) -> int:
        """Its process; 0 before it is started."""
        return self._process.pid if self._process else 0

    @property
    def lived_s(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started_s

    async def start(self, settings: WorkerSettings) -> None:
        """Start the process.

        Raises:
            OSError: The system has no room for one more.
        """
        self._started_s = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no module of the working directory in the place of one of ours
            "-m",
            "convscope_server.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal goes to the whole group; the supervisor passes it on once.
            process_group=0,
        )
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(settings.to_bytes())

    async def ended(self, number: int) -> int:
        """Read what it says until it ends; its log lines go to ours with this number.

        Returns:
            Its exit status; the negative signal number if a signal ended it.
        """
        process = self._process
        assert process is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        await asyncio.gather(
            self._read_messages(process.stdout),
            _pass_on(process.stderr, b"worker %d: " % number),
        )
        return await process.wait()

    def send(self, signal_number: int) -> None:
        """Send a signal, if it still lives."""
        if self._process is None:
            return
        # Python's start answers SIGINT with a traceback.
        if signal_number == signal.SIGINT and not self._hears_signals:
            signal_number = signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal_number)

    async def _read_messages(self, messages: asyncio.StreamReader) -> None:
        async for line in messages:
            message = line.rstrip(b"\n")
            if message == BEAT:
                self.silent_ticks = 0
                self._hears_signals = True
            elif message == READY:
                self.ready = self.was_ready = True
                self._on_ready()
            elif message.startswith(FAILED):
                self.failure = message.removeprefix(FAILED).decode(errors="replace")
        self.ready = False


async def _pass_on(log: asyncio.StreamReader, who: bytes) -> None:
    """Write a worker's log to ours, a whole line at a time, each with who it is from."""
    pending = b""
    while chunk := await log.read(1 << 16):
        *lines, pending = (pending + chunk).split(b"\n")
        _write(lines, who)
    if pending:
        _write([pending], who)


def _write(lines: list[bytes], who: bytes) -> None:
    for line in lines:
        start = _LINE_START.match(line)
        end = start.end() if start else 0
        sys.stderr.buffer.write(line[:end] + who + line[end:] + b"\n")
    sys.stderr.buffer.flush()


def how_it_ended(status: int) -> str:
    """An exit status in words: "was killed by SIGKILL", "ended with status 1"."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-status}"
