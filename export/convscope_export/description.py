"""An architecture as plain values, for programs: `convscope describe NOTATION --json`.

Pure arithmetic.
"""

from dataclasses import asdict
from typing import Any

from convscope_export import rules_of_thumb
from convscope_export.architecture import Architecture, PlacedLayer
from convscope_export.heads import heads
from convscope_export.layers import Conv, GlobalAveragePool, Pool

# Activations and parameters are float32.
VALUE_BYTES = 4


def window(placed: PlacedLayer) -> tuple[int, int] | None:
    """Width and height of a layer's filter or pooling window; None where it has none."""
    match placed.layer:
        case Conv() | Pool():
            return placed.layer.size, placed.layer.size
        case GlobalAveragePool():
            return placed.input.width, placed.input.height
        case _:
            return None


def stride(placed: PlacedLayer) -> int | None:
    """Pixels between two of its windows; None where there is one, or none."""
    match placed.layer:
        case Conv():
            return placed.layer.stride
        case Pool():
            return placed.layer.step
        case _:
            return None


def padding(placed: PlacedLayer) -> int | None:
    """Zeros on each side of its input; None where nothing slides over it."""
    match placed.layer:
        case Conv():
            return placed.layer.zeros
        case Pool():
            return 0
        case _:
            return None


def describe(architecture: Architecture) -> dict[str, Any]:
    """Everything that the notation settles, as JSON values; docs/notation.md lists the keys."""
    return {
        "notation": str(architecture),
        "input": asdict(architecture.input),
        "layers": [_layer(placed) for placed in architecture.layers],
        "total": {
            "weights": architecture.weights,
            "biases": architecture.biases,
            "parameters": architecture.parameters,
            "parameters_bytes": architecture.parameters * VALUE_BYTES,
            "multiply_adds": architecture.multiply_adds,
            "activations_bytes": activations_bytes(architecture),
        },
        "heads": asdict(heads(architecture)),
        "warnings": rules_of_thumb.broken(architecture),
    }


def activations_bytes(architecture: Architecture) -> int:
    """Memory of all layers' outputs for one picture, the input left out."""
    return sum(placed.volume.values for placed in architecture.layers) * VALUE_BYTES


def _layer(placed: PlacedLayer) -> dict[str, Any]:
    return {
        "name": placed.name,
        "kind": placed.layer.kind,
        "notation": str(placed.layer),
        "window": window(placed),
        "stride": stride(placed),
        "padding": padding(placed),
        "input": asdict(placed.input),
        "volume": asdict(placed.volume),
        "weights": placed.weights,
        "biases": placed.biases,
        "multiply_adds": placed.multiply_adds,
        "activations_bytes": placed.volume.values * VALUE_BYTES,
    }
