"""What the server asks of whatever computes: sessions that run batches, and a model's story.

The contract between scheduling and a runtime; it knows neither gRPC nor ONNX Runtime.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
# uint8 pixels, or floats for a graph's own input.
ImageArray = npt.NDArray[np.uint8 | np.floating[Any]]
Float32Array = npt.NDArray[np.float32]

# The graph outputs that every session computes before the tapped tensors.
SCORES = "scores"
PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class Volume:
    """One image's activations of a layer: depth x height x width; a vector is depth x 1 x 1."""

    depth: int
    height: int
    width: int

    @property
    def size(self) -> int:
        """How many activations."""
        return self.depth * self.height * self.width


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer whose activations can be asked for.

    Attributes:
        name: What a caller asks by.
        kind: CONV, RELU, POOL, FC; the ONNX operator where the file does not tell.
        tensor: The graph's tensor that holds the activations.
        volume: Its size for one image.
        rank: 4 for (N, C, H, W), 2 for (N, C).
    """

    name: str
    kind: str
    tensor: str
    volume: Volume
    rank: int
    notation: str = ""
    weight_count: int = 0
    bias_count: int = 0
    multiply_add_count: int = 0


@dataclass(frozen=True, slots=True)
class NativeInput:
    """A graph's own input where that is not of uint8 pixels.

    Attributes:
        dtype: "float32" or "float16".
        layout: "NCHW" or "NHWC".
        shape: Of one image: (C, H, W) or (H, W, C).
    """

    name: str
    dtype: str
    layout: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelInfo:
    """What a model file tells of its model.

    Attributes:
        input_name: Graph input, uint8 (N, height, width, channels), RGB or grey.
        native: The graph's own input, which takes what is put into it untouched; None if
            it is the one above.
        batch_size: Rows that every run has to have; None if that is free.
        labels: One for each of the K classes.
        mean, std: Per channel, of pixels scaled to 0-1; empty if not told.
        accuracy: Top-1 by a single forward pass, 0-1; None if not told.
        metadata: The file's metadata_props, untouched.
    """

    input_name: str
    height: int
    width: int
    labels: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    channels: int = 3
    native: NativeInput | None = None
    batch_size: int | None = None
    description: str = ""
    architecture: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    parameter_count: int = 0
    multiply_add_count: int = 0
    training_data: str = ""
    accuracy: float | None = None
    accuracy_data: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def image_bytes(self) -> int:
        """Size of one input row."""
        return self.height * self.width * self.channels

    @cached_property
    def longest_label_bytes(self) -> int:
        """Of the longest label in UTF-8."""
        return max(len(label.encode(errors="replace")) for label in self.labels)


# A session whose largest batch takes no longer than this on one thread runs on the
# event loop. Waking a thread costs some 50 microseconds and the interpreter's
# lock on top, which for a tiny model is more than the model; and health checks
# can wait this long.
INLINE_BATCH_S = 0.003


class Session(Protocol):
    """One compiled form of a model. Requests for the same session share batches."""

    @property
    def inline(self) -> bool:
        """Whether a batch is done before another thread would have woken up."""
        ...

    def run(self, images: ImageArray) -> Sequence[Float32Array]:
        """Compute one batch; called on the event loop if inline, else from worker threads.

        Args:
            images: uint8, (N, H, W, C), 0-255; of a native session, what the graph's own
                input takes. Read, never written.

        Returns:
            float32 arrays: scores and probabilities (N, K), then each tapped tensor,
            (N, C, H, W) or (N, C), in the order in which the session was asked for.

        Raises:
            BackendFailure: The runtime failed.
        """
        ...


class Backend(Protocol):
    """One loaded model."""

    @property
    def info(self) -> ModelInfo:
        """What the model's file tells."""
        ...

    @property
    def execution_provider(self) -> str:
        """Where it runs, such as "CPUExecutionProvider"."""
        ...

    def build_session(self, tensors: tuple[str, ...], *, native: bool = False) -> Session:
        """A new session, warmed, that also returns these tensors of the graph.

        Takes long: call it from a thread. A native one takes what the graph's own input
        takes, instead of uint8 pixels.

        Raises:
            BackendFailure: The runtime could not build it.
        """
        ...
