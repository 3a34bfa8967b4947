"""Proof that a model file is what docs/model-file.md says and computes what PyTorch does.

Every check runs and every failure is collected before anything is raised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from convscope_export.errors import ExportError
from convscope_export.graph_check import DtypeError, ShapeError, check_graph, expected_tensors
from convscope_export.network import Network, normalize
from convscope_export.onnx_export import INPUT_NAME, OUTPUT_NAMES, tensor_names
from convscope_export.onnx_runtime import RuntimeLoadError, RuntimeRunError, Session

# 1 is what most requests are, 2 is what was traced, 7 is neither and no power of two. For a
# network whose layers make so much that 7 pictures of it would fill the memory, so is 3.
BATCHES = (1, 2, 7)
_LARGE_BATCHES = (1, 2, 3)
# Of one batch's activations; several copies are alive while they are compared (VGG-16 at
# 224x224: 0.8 GB of activations for 7 pictures, 3.8 GB resident).
_MAX_ACTIVATION_BYTES = 1 << 30

# Largest difference from PyTorch. Both compute in float32 but sum in another order: on
# activations of a size of 10 a sum of 3,000 terms differs by some 1e-5.
ATOL = 1e-4
# The same for tensors with values above 10, as part of the largest one: float32 has 7 digits,
# and L2 pools make activations grow with every window.
RTOL = 1e-5

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
Reference = Callable[[UInt8Array], Mapping[str, Float32Array]]


class ToleranceError(ExportError):
    """A tensor differs from the reference by more than the tolerance."""


class VerificationError(ExportError):
    """A model file failed one check or more; `failures` holds each."""

    def __init__(self, failures: Sequence[ExportError]) -> None:
        self.failures = tuple(failures)
        count = "1 check" if len(failures) == 1 else f"{len(failures)} checks"
        super().__init__(f"{count} failed: " + "; ".join(map(str, failures)))


@dataclass(frozen=True)
class Comparison:
    """One tensor that was checked.

    Attributes:
        tensor: Its name.
        shape: Without the batch axis.
        max_abs_diff: Largest absolute difference from the reference, over all batches;
            None where the reference does not hold it.
    """

    tensor: str
    shape: tuple[int, ...]
    max_abs_diff: float | None


def batches(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Numbers of pictures that a model is checked with, from the volumes of its layers."""
    volumes = (layer["volume"] for layer in metadata["layers"])
    values = sum(volume["depth"] * volume["height"] * volume["width"] for volume in volumes)
    fits = 4 * values * max(BATCHES) <= _MAX_ACTIVATION_BYTES
    return BATCHES if fits else _LARGE_BATCHES


def pictures(count: int, height: int, width: int, channels: int) -> UInt8Array:
    """Test pictures, always the same: noise, black, white, a slope, then noise again.

    Returns:
        uint8, shape (count, height, width, channels), 0-255.
    """
    images = np.random.default_rng(count).integers(
        0, 256, (count, height, width, channels), dtype=np.uint8
    )
    slope = np.linspace(0, 255, width).astype(np.uint8)
    for row, line in zip(
        range(1, count), (np.zeros_like(slope), np.full_like(slope, 255), slope), strict=False
    ):
        images[row] = line[None, :, None]
    return images


def torch_reference(network: Network, mean: Sequence[float], std: Sequence[float]) -> Reference:
    """What PyTorch computes, with the normalisation that trained the network.

    The function takes uint8 (N, H, W, C) and answers scores, probabilities and every
    activation by tensor name, float32.
    """
    tensors = tensor_names(network)

    def reference(images: UInt8Array) -> dict[str, Float32Array]:
        with torch.inference_mode():
            x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            activations = network.activations(normalize(x, mean, std))
            values = {tensors[name]: value for name, value in activations.items()}
            values["probabilities"] = torch.softmax(values["scores"], 1)
            return {name: value.numpy() for name, value in values.items()}

    return reference


def with_taps(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Copy of a model whose graph outputs are these inner tensors too, as a server makes one."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    inner = {info.name: info for info in model.graph.value_info}
    tapped.graph.output.extend(inner[name] for name in tensors)
    return tapped


def verify(
    model: onnx.ModelProto, metadata: Mapping[str, Any], reference: Reference | None = None
) -> list[Comparison]:
    """Check a model file: its graph against its metadata, and what it computes.

    Scores and probabilities come from the model as it is and from one whose layers are
    graph outputs too: ONNX Runtime optimises the two differently.

    Args:
        model: The graph; its metadata_props are not looked at.
        metadata: By keys without prefix (metadata.describe or metadata.read).
        reference: What it must compute (torch_reference). Without one the probabilities
            are compared with the softmax of the scores, and the scores of the tapped
            model with those of the model as it is.

    Returns:
        One comparison per tensor: graph outputs first, then the layers in order.

    Raises:
        VerificationError: With every failure.
    """
    failures = list(check_graph(model, metadata))
    differences = _Differences(expected_tensors(metadata))
    declared = {info.name for info in model.graph.value_info}
    taps = [name for name in differences.shapes if name in declared]
    volume = metadata["input"]
    try:
        sessions = [
            (Session(model.SerializeToString()), OUTPUT_NAMES),
            (Session(with_taps(model, taps).SerializeToString()), (*OUTPUT_NAMES, *taps)),
        ]
        for batch in batches(metadata):
            images = pictures(batch, volume["height"], volume["width"], volume["channels"])
            expected = dict(reference(images)) if reference else {}
            for session, outputs in sessions:
                values = session.run(outputs, {INPUT_NAME: images})
                if reference is None:
                    expected.setdefault("scores", values["scores"])
                    expected["probabilities"] = _softmax(values["scores"])
                failures += differences.add(values, expected, batch)
    except (RuntimeLoadError, RuntimeRunError) as error:
        failures.append(error)
    failures += differences.beyond_tolerance()
    if failures:
        # The same fault can show in both sessions and in every batch: say it once.
        raise VerificationError(list({str(failure): failure for failure in failures}.values()))
    return [
        Comparison(name, shape, differences.largest.get(name))
        for name, shape in differences.shapes.items()
    ]


@dataclass
class _Differences:
    """Largest difference of each tensor so far, and the largest value it should have had."""

    shapes: dict[str, tuple[int, ...]]
    largest: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        values: Mapping[str, npt.NDArray[Any]],
        expected: Mapping[str, Float32Array],
        batch: int,
    ) -> list[ExportError]:
        failures: list[ExportError] = []
        for name, value in values.items():
            shape = (batch, *self.shapes[name])
            if value.dtype != np.float32:
                failures.append(DtypeError(f"{name}: expected float32, got {value.dtype}"))
            elif value.shape != shape:
                failures.append(
                    ShapeError(f"{name}: expected the shape {shape}, got {value.shape}")
                )
            elif name in expected:
                difference = float(np.max(np.abs(value - expected[name])))
                # A NaN on either side must not get lost: max() of it depends on the order.
                known = self.largest.get(name, 0.0)
                self.largest[name] = float(np.maximum(known, difference))
                peak = float(np.max(np.abs(expected[name])))
                self.peaks[name] = float(np.maximum(self.peaks.get(name, 0.0), peak))
        return failures

    def tolerance(self, name: str) -> float:
        """Largest difference that a tensor may have; NaN where its values should be NaN."""
        return float(np.maximum(ATOL, RTOL * self.peaks[name]))

    def beyond_tolerance(self) -> list[ExportError]:
        return [
            ToleranceError(
                f"{name}: expected a difference of at most {self.tolerance(name):.2g} from "
                f"the reference, got {difference:g}"
            )
            for name, difference in self.largest.items()
            if not difference <= self.tolerance(name)
        ]


def _softmax(scores: Float32Array) -> Float32Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    answer: Float32Array = powers / powers.sum(axis=1, keepdims=True)
    return answer


def summary(metadata: Mapping[str, Any], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Value of the metadata key `verification`."""
    return {
        "batches": list(batches(metadata)),
        "atol": ATOL,
        "max_abs_diff": {comparison.tensor: comparison.max_abs_diff for comparison in comparisons},
    }
