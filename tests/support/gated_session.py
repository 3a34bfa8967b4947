"""A Session whose batches wait until they are let go, and which remembers what it was given."""

import threading
from collections.abc import Sequence

import numpy as np

from convscope_server.backend import Float32Array, ImageArray


class GatedSession:
    """Answers each row with the value of its first pixel, and its negative in (N, 1)."""

    def __init__(
        self, *, is_open: bool = True, error: Exception | None = None, inline: bool = False
    ) -> None:
        """Begin with the gate open or shut; fail every batch with error if one is given."""
        self.inline = inline
        self.batches: list[list[int]] = []
        self.error = error
        self._gate = threading.Event()
        if is_open:
            self._gate.set()

    def open(self) -> None:
        """Let waiting batches and all later ones go."""
        self._gate.set()

    def run(self, images: ImageArray) -> Sequence[Float32Array]:
        """Note the rows, wait for the gate, answer."""
        rows = images[:, 0, 0, 0].tolist()
        self.batches.append(rows)
        if not self._gate.wait(timeout=30):
            raise TimeoutError("the test never opened the gate")
        if self.error:
            raise self.error
        values = np.array(rows, np.float32)
        return [values, -values[:, None]]


class Log:
    """An Observer that keeps what it was told."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.queue: tuple[int, int] = (0, 0)
        self.largest_queue_rows = 0
        self.batch_sizes: list[int] = []
        self.cut_reasons: list[str] = []
        self.drops: list[tuple[str, int]] = []
        self.waited = 0
        self.failed_batches = 0

    def queue_changed(self, rows: int, size_bytes: int) -> None:
        """Keep the last and the largest."""
        self.queue = (rows, size_bytes)
        self.largest_queue_rows = max(self.largest_queue_rows, rows)

    def batch_done(
        self, outputs: Sequence[Float32Array], compute_s: float, cut_reason: str
    ) -> None:
        """Keep the size and the reason."""
        self.batch_sizes.append(len(outputs[0]))
        self.cut_reasons.append(cut_reason)

    def batch_failed(self) -> None:
        """Count it."""
        self.failed_batches += 1

    def queued(self, queue_s: float) -> None:
        """Count it."""
        self.waited += 1

    def dropped(self, reason: str, rows: int) -> None:
        """Keep it."""
        self.drops.append((reason, rows))


def images(*values: int) -> ImageArray:
    """Rows of one pixel each, (N, 1, 1, 3), that hold these values."""
    return np.repeat(np.array(values, np.uint8), 3).reshape(-1, 1, 1, 3)
