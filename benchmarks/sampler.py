"""What the main thread's processor time goes into, sampled: parts of the server, lines of source.

C code counts for the line of Python that calls it. Python tells of where it is at calls and
loops only, so what stands between two calls counts for the second.
"""

import ctypes
import linecache
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# What a sample counts for, by the name of the source file; else by the file itself.
PARTS = {
    "prometheus_client": "metrics",
    "metrics": "metrics",
    "ort_backend": "ONNX Runtime",
    "scheduler": "scheduling",
    "batch_queue": "scheduling",
    "batch_request": "scheduling",
    "lane": "scheduling",
    "fair_share": "scheduling",
    "dispatch": "dispatcher",
    "classifier": "servicer",
    "inference": "servicer",
    "open_inference": "servicer",
    "served_model": "servicer",
    "served_models": "servicer",
    "memory_budget": "servicer",
    "feature_maps": "servicer",
    "lifecycle": "servicer",
    "backend": "servicer",
    "statistics": "metrics",
    "pixels": "reading requests",
    "inputs": "reading requests",
    "parameters": "reading requests",
    "outputs": "writing answers",
    "call_cost": "the caller",
}
# Of codec and tensors: what writes the answer; all else reads the request.
WRITING = {"fill", "classifications", "feature_map", "timings", "to_tensor", "response_bytes"}


class Sampler:
    """Where the main thread is, at even steps of its own processor time.

    Attributes:
        parts: Samples by part.
        lines: Samples by file and line.
    """

    _INTERVAL_NS = 1_000_000  # the kernel's clock tick is longer, and then that is taken

    def __init__(self) -> None:
        """Make the timer; not running yet."""
        self.parts: Counter[str] = Counter()
        self.lines: Counter[tuple[str, int]] = Counter()
        self._libc = ctypes.CDLL(None, use_errno=True)
        # struct sigevent: value, signal number, SIGEV_SIGNAL, padding to 64 bytes.
        event = (ctypes.c_int * 16)(0, 0, signal.SIGPROF, 0)
        self._timer = ctypes.c_void_p()
        # Not setitimer: that would count what other threads take.
        if self._libc.timer_create(
            time.CLOCK_THREAD_CPUTIME_ID, ctypes.byref(event), ctypes.byref(self._timer)
        ):
            raise OSError(ctypes.get_errno(), "timer_create")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take samples."""
        before = signal.signal(signal.SIGPROF, self._sample)
        self._set(self._INTERVAL_NS)
        try:
            yield
        finally:
            self._set(0)
            signal.signal(signal.SIGPROF, before)

    def print_tables(self, total_us: float, line_count: int) -> None:
        """The parts, and the lines that take the most, as shares of so many µs."""
        us = total_us / max(1, self.parts.total())
        print(f"{self.parts.total()} samples.\n\n| part | µs a call |\n|---|---:|")
        for part, samples in self.parts.most_common():
            print(f"| {part} | {samples * us:.1f} |")
        print(f"| all | {total_us:.1f} |\n\n| line | µs a call | source |\n|---|---:|---|")
        for (path, line), samples in self.lines.most_common(line_count):
            source = linecache.getline(path, line).strip().replace("|", "\\|")
            print(f"| {Path(path).name}:{line} | {samples * us:.1f} | `{source}` |")

    def _set(self, interval_ns: int) -> None:
        # struct itimerspec: interval, first; each seconds and nanoseconds.
        settings = (ctypes.c_long * 4)(0, interval_ns, 0, interval_ns)
        self._libc.timer_settime(self._timer, 0, ctypes.byref(settings), None)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        while frame is not None:
            path = frame.f_code.co_filename
            if part := _part(path, frame.f_code.co_name):
                self.parts[part] += 1
                self.lines[path, frame.f_lineno] += 1
                return
            frame = frame.f_back
        self.parts["event loop"] += 1


def _part(path: str, function: str) -> str:
    """What a frame of this function counts for; empty for its caller's."""
    file = Path(path)
    if "prometheus_client" in file.parts:
        return "metrics"
    if "asyncio" in file.parts:
        return "event loop"
    if file.stem in ("codec", "tensors") or file.stem.endswith("_codec"):
        return "writing answers" if function in WRITING else "reading requests"
    if "convscope_server" in file.parts or file.stem == "call_cost":
        return PARTS.get(file.stem, file.stem)
    return ""
