"""What turns the last feature maps into class scores: FC layers, or the global average.

Pure arithmetic.
"""

from dataclasses import dataclass

from convscope_export.architecture import Architecture
from convscope_export.layers import FullyConnected, GlobalAveragePool, Layer, Volume


@dataclass(frozen=True)
class Head:
    """A head over a volume, and what it takes for one picture.

    Attributes:
        kind: "FC" or "GAP", global average pooling.
        notation: Its layers.
        parameters: Weights and biases.
        multiply_adds: Multiplications.
        present: Whether it is the architecture's own.
    """

    kind: str
    notation: str
    parameters: int
    multiply_adds: int
    present: bool


@dataclass(frozen=True)
class Heads:
    """Both heads over the volume that the architecture's own one takes."""

    input: Volume
    fc: Head
    gap: Head


def heads(architecture: Architecture) -> Heads:
    """Compare a head of FC layers with one by global average pooling.

    One of them is the architecture's own. Against FC layers, hidden ones too, stands what
    Network In Network (2013), section 3.2, puts in their place: the global average and at
    most one FC layer. Against the global average stands an FC layer straight on the volume.
    """
    layers = architecture.layers
    at = next(
        i
        for i, placed in enumerate(layers)
        if isinstance(placed.layer, FullyConnected | GlobalAveragePool)
    )
    own, volume = tuple(placed.layer for placed in layers[at:]), layers[at].input
    classes = FullyConnected(architecture.classes)
    if isinstance(own[0], GlobalAveragePool):
        return Heads(
            volume, _head(volume, "FC", (classes,)), _head(volume, "GAP", own, present=True)
        )
    gap = (GlobalAveragePool(), classes)
    return Heads(volume, _head(volume, "FC", own, present=True), _head(volume, "GAP", gap))


def _head(volume: Volume, kind: str, layers: tuple[Layer, ...], *, present: bool = False) -> Head:
    taken, parameters, multiply_adds = volume, 0, 0
    for layer in layers:
        parameters += layer.weights(taken) + layer.biases()
        multiply_adds += layer.multiply_adds(taken)
        taken = layer.output(taken)
    return Head(kind, " -> ".join(map(str, layers)), parameters, multiply_adds, present)
