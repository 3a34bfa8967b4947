"""An event loop whose clock jumps to the next timer, and batches that take such time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import numpy as np

from convscope_server.backend import Float32Array, ImageArray

T = TypeVar("T")


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """Never waits: where a real loop would sleep until a timer, the clock is set to it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now_s


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: FakeTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        assert timeout is not None, "everything waits and no timer is set: a deadlock"
        self._loop.now_s += max(timeout, 1e-9)  # so that rounding cannot stop the clock
        return []


def run_in_fake_time(scenario: Callable[[FakeTimeLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end; seconds of sleep take none."""
    loop = FakeTimeLoop()
    try:
        return loop.run_until_complete(scenario(loop))
    finally:
        loop.close()


class TimedExecutor(Executor):
    """Runs each batch at once, and has it done after its session's batch_s on a loop's clock.

    Attributes:
        started: For each batch, when it started, when it ended, and its session.
    """

    def __init__(self, loop: FakeTimeLoop) -> None:
        self._loop = loop
        self.started: list[tuple[float, float, TimedSession]] = []

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        (batch,) = arguments
        session = batch.session
        now_s = self._loop.time()
        self.started.append((now_s, now_s + session.batch_s, session))

        def finish() -> None:
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)

        session.starts += [(row, now_s) for piece in batch.slices for row in rows_of(piece.images)]
        self._loop.call_later(session.batch_s, finish)
        return future


class TimedSession:
    """Answers each row with its number; a batch of whatever size takes batch_s."""

    inline = False

    def __init__(self, batch_s: float, error: Exception | None = None) -> None:
        self.batch_s = batch_s
        self.error = error
        self.batches: list[list[int]] = []
        self.starts: list[tuple[int, float]] = []

    def run(self, images: ImageArray) -> Sequence[Float32Array]:
        numbers = rows_of(images)
        self.batches.append(numbers)
        if self.error:
            raise self.error
        return [np.array(numbers, np.float32)]


def numbered(first: int, count: int) -> ImageArray:
    """Rows of one pixel, (count, 1, 1, 3), that hold the numbers from first on, below 2^24."""
    numbers = np.arange(first, first + count)
    pixels: ImageArray = (numbers[:, None] >> np.array([0, 8, 16])).astype(np.uint8)
    return pixels.reshape(-1, 1, 1, 3)


def rows_of(images: ImageArray) -> list[int]:
    """The numbers that rows hold."""
    numbers = images.reshape(-1, 3).astype(np.int64) @ np.array([1, 1 << 8, 1 << 16])
    return [int(number) for number in numbers]
