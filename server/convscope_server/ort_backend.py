"""ONNX Runtime behind the Backend protocol; the only file that imports onnxruntime."""

import os
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
    ModelInfo,
    UInt8Array,
)
from convscope_server.errors import BackendFailure, StartupError
from convscope_server.model_file import ModelFile

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


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
    ) -> None:
        """Compile the model for these outputs.

        Raises:
            BackendFailure: ONNX Runtime refuses the model.
        """
        self._input_name = input_name
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
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.log_severity_level = 3
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

    def run(self, images: UInt8Array) -> Sequence[Float32Array]:
        """Compute one batch; see backend.Session."""
        try:
            outputs: list[Float32Array] = self._session.run(
                self._outputs, {self._input_name: images}
            )
        except Exception as error:
            raise BackendFailure(f"ONNX Runtime failed: {_first_line(error)}") from error
        return outputs

    def warm(self, images: UInt8Array) -> None:
        """Run a batch of this size, so that no caller is the first; batches come in rising size."""
        self.run(images)
        started_s = time.perf_counter()
        self.run(images)
        self.largest_batch_s = time.perf_counter() - started_s


class OrtBackend:
    """One model in ONNX Runtime.

    Attributes:
        execution_provider: Where it runs.
        thread_count: Threads that one run may use.
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
        # 1, 2, 4, … and the largest batch itself.
        sizes = {1 << power for power in range(max_batch_size.bit_length())} | {max_batch_size}
        self._batch_sizes = sorted(sizes)

    @property
    def info(self) -> ModelInfo:
        """What the model's file tells."""
        return self._model_file.info

    def build_session(self, tensors: tuple[str, ...]) -> OrtSession:
        """A new session, warmed; see backend.Backend."""
        session = OrtSession(
            self._model_file.serialize(tensors),
            self.info.input_name,
            tensors,
            provider=self.execution_provider,
            thread_count=self.thread_count,
        )
        # The first caller of a tapped session waits for it: warm only the ends of the ladder.
        step = len(self._batch_sizes) - 1 if tensors else 1
        for batch_size in self._batch_sizes[:: max(1, step)]:
            session.warm(np.zeros((batch_size, self.info.height, self.info.width, 3), np.uint8))
        return session


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
