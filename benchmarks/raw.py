"""ONNX Runtime itself on the same processors, in a process of its own.

    python benchmarks/raw.py MODEL

reads lines `MODE BATCH_SIZE SECONDS` and answers each with images/s. MODE is `threads`,
one caller whose runs use as many threads as there are processors, or `callers`, as many
callers as that with one thread each. Everything else is as ONNX Runtime has it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

MODES = ("threads", "callers")
BATCH_SIZES = (1, 32, 64)


class Raw:
    """A process that runs a model."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        """Talk to a process of this script."""
        self._process = process

    def images_per_second(self, mode: str, batch_size: int, seconds: float) -> float:
        """Run batches of this size for so long."""
        assert self._process.stdin and self._process.stdout  # noqa: S101, PT018
        self._process.stdin.write(f"{mode} {batch_size} {seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextmanager
def raw(model: Path) -> Iterator[Raw]:
    """ONNX Runtime with this model, in a process of its own."""
    command = [sys.executable, __file__, str(model)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603
        try:
            yield Raw(process)
        finally:
            process.terminate()


def _serve(model: str) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    import onnxruntime as ort

    processors = len(os.sched_getaffinity(0))

    def session(threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    # One session for all callers: a run may go on beside another.
    modes = {"threads": (session(processors), 1), "callers": (session(1), processors)}
    model_input = modes["threads"][0].get_inputs()[0]
    name, shape = model_input.name, model_input.shape[1:]

    def images(mode: str, batch_size: int, seconds: float) -> float:
        runner, callers = modes[mode]
        pixels = np.zeros((batch_size, *shape), np.uint8)
        runner.run(None, {name: pixels})

        def caller(_: int) -> int:
            count, ends_s = 0, time.perf_counter() + seconds
            while time.perf_counter() < ends_s:
                runner.run(None, {name: pixels})
                count += batch_size
            return count

        started_s = time.perf_counter()
        with ThreadPoolExecutor(callers) as executor:
            count = sum(executor.map(caller, range(callers)))
        return count / (time.perf_counter() - started_s)

    for line in sys.stdin:
        mode, batch_size, seconds = line.split()
        print(images(mode, int(batch_size), float(seconds)), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
