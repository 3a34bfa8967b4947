"""ONNX Runtime behind the Backend protocol; the only file that imports onnxruntime."""

import math
import os
import re
import time
from collections.abc import Sequence

# Official Linux wheels since 1.29 send telemetry unless this is set before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort

from convscope_server.backend import (
    INLINE_BATCH_S,
    PROBABILITIES,
    SCORES,
    Float32Array,
    ImageArray,
    LayerInfo,
    ModelInfo,
)
from convscope_server.errors import BackendFailure, StartupError
from convscope_server.model_file import ModelFile

_MAX_ERROR_LENGTH = 300

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# How often a batch is timed where that decides something.
_TIMINGS = 5


class OrtSession:
    """One onnxruntime.InferenceSession with the outputs that one set of taps needs.

    Attributes:
        largest_batch_s: What the largest batch took when the session was warmed.
    """

    def __init__(
        self,
        model: bytes,
        input_name: str,
        tensors: tuple[str, ...],
        *,
        provider: str,
        thread_count: int,
        batch_size: int | None = None,
    ) -> None:
        """Compile the model for these outputs; batch_size is what every run must have.

        Raises:
            BackendFailure: ONNX Runtime refuses the model.
        """
        self._input_name = input_name
        self._batch_size = batch_size
        self._outputs = [SCORES, PROBABILITIES, *tensors]
        self.largest_batch_s = 0.0
        self._may_be_inline = provider == _PROVIDERS["cpu"] and thread_count == 1
        options = ort.SessionOptions()
        options.intra_op_num_threads = thread_count
        options.inter_op_num_threads = 1
        # Batches change their size all the time: a pattern for each would be kept for ever.
        options.enable_mem_pattern = False
        # Spinning threads take the processor from the event loop.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What it would log is in the exceptions that it raises.
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(model, options, providers=[provider])
        except Exception as error:  # pybind raises many unrelated classes here
            raise BackendFailure(f"ONNX Runtime cannot load it: {_first_line(error)}") from error
        # Where a provider's libraries are missing, ONNX Runtime silently takes the CPU.
        self._session.disable_fallback()
        if self._session.get_providers()[0] != provider:
            raise BackendFailure(f"ONNX Runtime cannot load the libraries of {provider}")

    @property
    def inline(self) -> bool:
        """Whether a batch is done before another thread would have woken up."""
        return self._may_be_inline and self.largest_batch_s <= INLINE_BATCH_S

    def run(self, images: ImageArray) -> Sequence[Float32Array]:
        """Compute one batch; see backend.Session."""
        rows = len(images)
        if self._batch_size and rows < self._batch_size:
            padding = np.zeros((self._batch_size - rows, *images.shape[1:]), images.dtype)
            images = np.concatenate([images, padding])
        try:
            outputs: list[Float32Array] = self._session.run(
                self._outputs, {self._input_name: images}
            )
        except Exception as error:
            raise BackendFailure(f"ONNX Runtime failed: {_first_line(error)}") from error
        return [output[:rows] for output in outputs] if self._batch_size else outputs

    def warm(self, images: ImageArray, shapes: Sequence[tuple[int, ...]]) -> None:
        """Run a batch of this size, so that no caller is the first; batches come in rising size.

        Args:
            images: What run() takes.
            shapes: What it has to return for one image: so that a file which tells
                something else than it computes is found out here.

        Raises:
            BackendFailure: It returns something else.
        """
        outputs = self.run(images)
        for name, output, shape in zip(self._outputs, outputs, shapes, strict=True):
            if output.dtype != np.float32 or output.shape != (len(images), *shape):
                raise BackendFailure(
                    f"expected {name} as float32 {(len(images), *shape)}, as the file tells, "
                    f"got {output.dtype} {output.shape}"
                )
        # With one thread, its own time: what others do at this moment must not decide.
        clock = time.thread_time if self._may_be_inline else time.perf_counter
        self.largest_batch_s = math.inf
        for _ in range(_TIMINGS):
            started_s = clock()
            self.run(images)
            self.largest_batch_s = min(self.largest_batch_s, clock() - started_s)
            if not INLINE_BATCH_S < self.largest_batch_s < 10 * INLINE_BATCH_S:
                break


class OrtBackend:
    """One model in ONNX Runtime.

    Attributes:
        execution_provider: Where it runs.
        thread_count: Threads that one run may use.
        max_batch_size: Most rows that one run takes.
    """

    def __init__(
        self, model_file: ModelFile, *, device: str, max_batch_size: int, thread_count: int
    ) -> None:
        """Keep what every session of the model is built from.

        Args:
            model_file: The checked model.
            device: "cpu" or "cuda".
            max_batch_size: Largest batch that will come, in rows.
            thread_count: Threads that one run may use.

        Raises:
            StartupError: ONNX Runtime has no such device here.
        """
        self.execution_provider = _PROVIDERS[device]
        available = ort.get_available_providers()
        if self.execution_provider not in available:
            raise StartupError(
                f"expected ONNX Runtime with {self.execution_provider} for --device {device}, got "
                f"{', '.join(available)}: in an environment without convscope[server], "
                'pip install "convscope[gpu]"'
            )
        if device == "cuda":
            # The wheel names CUDA's libraries but not where pip put them.
            ort.preload_dlls()
        self._model_file = model_file
        self.thread_count = thread_count
        self.max_batch_size = min(max_batch_size, self.info.batch_size or max_batch_size)
        max_batch_size = self.max_batch_size
        # 1, 2, 4, … and the largest batch itself.
        sizes = {1 << power for power in range(max_batch_size.bit_length())} | {max_batch_size}
        self._batch_sizes = sorted(sizes)

    @property
    def info(self) -> ModelInfo:
        """What the model's file tells."""
        return self._model_file.info

    def build_session(
        self, tensors: tuple[str, ...], *, native: bool = False, must_be_inline: bool = False
    ) -> OrtSession:
        """A new session, warmed; see backend.Backend.

        One that must be inline, and proves too slow for it, is warmed no further.
        """
        info = self.info
        name, dtype = info.input_name, "uint8"
        shape: tuple[int, ...] = (info.height, info.width, info.channels)
        if native:
            if info.native is None:
                raise BackendFailure("expected a model whose own input is of floats")
            name, dtype, shape = info.native.name, info.native.dtype, info.native.shape
        session = OrtSession(
            self._model_file.serialize(tensors, native=native),
            name,
            tensors,
            provider=self.execution_provider,
            thread_count=self.thread_count,
            batch_size=info.batch_size,
        )
        layers = {layer.tensor: layer for layer in info.layers}
        scores = (len(info.labels),)
        shapes = [scores, scores, *(_shape(layers[tensor]) for tensor in tensors)]
        # The first caller of a tapped session waits for it: warm only the ends of the ladder.
        step = len(self._batch_sizes) - 1 if tensors or native else 1
        for batch_size in self._batch_sizes[:: max(1, step)]:
            session.warm(np.zeros((batch_size, *shape), dtype), shapes)
            if must_be_inline and not session.inline:
                break
        return session


def _shape(layer: LayerInfo) -> tuple[int, ...]:
    volume = layer.volume
    return (volume.depth, volume.height, volume.width) if layer.rank == 4 else (volume.depth,)


def _first_line(error: Exception) -> str:
    """What went wrong, without the places and signatures of ONNX Runtime's own source."""
    line = str(error).strip().partition("\n")[0]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"\S*onnxruntime_src\S*\s?", "", line)
    # A failed check: signature, condition, "was false.", and then what it means.
    line = re.sub(r"(Status Message: )?\S*onnxruntime::.* was false\. ", "", line)
    return line if len(line) <= _MAX_ERROR_LENGTH else line[: _MAX_ERROR_LENGTH - 1] + "…"
