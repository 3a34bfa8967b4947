"""ONNX Runtime sessions; the only file that imports onnxruntime."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope_export.errors import ExportError


class RuntimeLoadError(ExportError):
    """ONNX Runtime refuses the model."""


class RuntimeRunError(ExportError):
    """ONNX Runtime cannot run the model on the given input."""


class Session:
    """A model loaded in ONNX Runtime on the CPU."""

    def __init__(self, model: bytes, optimized_path: str | None = None) -> None:
        """Load a model.

        Args:
            model: The ONNX file's contents.
            optimized_path: Where to write the graph that ONNX Runtime made of it.

        Raises:
            RuntimeLoadError: The model cannot be loaded.
        """
        # Read by the library when it is loaded; later is too late (inference-servers.md
        # tells the versions: onnxruntime >= 1.29 sends telemetry by default).
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # fatal only: what is wrong is raised as well
        if optimized_path is not None:
            options.optimized_model_filepath = optimized_path
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeLoadError(
                f"expected a model that ONNX Runtime loads, got: {_first_line(error)}"
            ) from error

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """Values of some graph outputs, by name; raises RuntimeRunError."""
        try:
            values = self._session.run(list(outputs), dict(feeds))
        except Exception as error:
            raise RuntimeRunError(
                f"expected a model that runs on {_shapes(feeds)}, got: {_first_line(error)}"
            ) from error
        return dict(zip(outputs, (np.asarray(value) for value in values), strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _shapes(feeds: Mapping[str, npt.NDArray[Any]]) -> str:
    return ", ".join(f"{name} {value.dtype}{value.shape}" for name, value in feeds.items())
