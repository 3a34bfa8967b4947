"""ConvNet architectures: layers one after the other, with their volumes and their names.

Pure arithmetic: knows nothing of torch or ONNX.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from convscope_export.layers import (
    ArchitectureError,
    Conv,
    FullyConnected,
    Layer,
    Pool,
    Relu,
    Repeat,
    Volume,
)


@dataclass(frozen=True)
class PlacedLayer:
    """A layer where it stands: its name, what it takes and what it makes."""

    name: str
    layer: Layer
    input: Volume
    volume: Volume

    @property
    def weights(self) -> int:
        return self.layer.weights(self.input)

    @property
    def biases(self) -> int:
        return self.layer.biases()

    @property
    def multiply_adds(self) -> int:
        """Multiplications for one picture: each weight is used once at every output position."""
        return self.weights * self.volume.height * self.volume.width


@dataclass(frozen=True)
class Architecture:
    """An input volume and the layers over it; prints itself in ConvNet notation.

    Attributes:
        input: Volume of one picture.
        items: Layers and repeated groups, in order. The last layer is the FC
            layer whose outputs are the class scores.

    Raises:
        ArchitectureError: On making one that cannot be: volumes that do not
            fit, sizes below 1, CONV or POOL after FC, no FC at the end.
    """

    input: Volume
    items: tuple[Layer | Repeat, ...]

    def __post_init__(self) -> None:
        if not self.layers or not isinstance(self.layers[-1].layer, FullyConnected):
            raise ArchitectureError(
                f"{self}: the last layer must be FC, it makes the class scores; append FC(10)"
            )

    @cached_property
    def layers(self) -> tuple[PlacedLayer, ...]:
        """Every layer, repetitions written out, with name and volumes."""
        placed: list[PlacedLayer] = []
        volume = self.input
        for name, layer in _named(self.items):
            if isinstance(layer, Conv | Pool) and any(p.layer.kind == "FC" for p in placed):
                raise ArchitectureError(f"{name}: {layer} cannot follow FC: move it before")
            try:
                output = layer.output(volume)
            except ArchitectureError as error:
                raise ArchitectureError(
                    f"{name}: {layer} does not fit its input {volume}: {error}"
                ) from error
            placed.append(PlacedLayer(name, layer, volume, output))
            volume = output
        return tuple(placed)

    @property
    def classes(self) -> int:
        """Number of class scores."""
        return self.layers[-1].volume.depth

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def biases(self) -> int:
        return sum(layer.biases for layer in self.layers)

    @property
    def parameters(self) -> int:
        return self.weights + self.biases

    @property
    def multiply_adds(self) -> int:
        """Multiplications for one picture."""
        return sum(layer.multiply_adds for layer in self.layers)

    def __str__(self) -> str:
        return " -> ".join([f"INPUT({self.input})", *map(str, self.items)])


def _blocks(items: Sequence[Layer | Repeat]) -> Iterator[list[Layer]]:
    """Split the layers into the blocks that number them.

    Each repetition of an outermost group that holds a CONV is a block; so is a
    bare CONV with the bare layers after it.
    """
    bare: list[Layer] = []
    for item in items:
        group = list(item.expanded()) if isinstance(item, Repeat) else [item]
        if isinstance(item, Repeat) and any(isinstance(layer, Conv) for layer in group):
            if bare:
                yield bare
                bare = []
            length = len(group) // item.times
            blocks = [group[i : i + length] for i in range(0, len(group), length)]
            yield from blocks[:-1]
            # What follows the last repetition, such as a bare POOL, belongs to its block.
            bare = blocks[-1]
        else:
            for layer in group:
                if isinstance(layer, Conv) and any(isinstance(other, Conv) for other in bare):
                    yield bare
                    bare = []
                bare.append(layer)
    if bare:
        yield bare


def _named(items: Sequence[Layer | Repeat]) -> Iterator[tuple[str, Layer]]:
    """Name each layer as a person would; the names are unique and never change.

    `conv3` is the convolution of the third block, `conv3_2` the second where
    the block has several; pools alike; a ReLU after a CONV takes its number,
    after another layer that layer's name (`relu_fc1`); FC layers count up.
    """
    fc_count = 0
    previous, previous_name = "", "input"
    for number, block in enumerate(_blocks(items), start=1):
        totals = Counter(layer.kind for layer in block)
        seen: Counter[str] = Counter()
        for layer in block:
            seen[layer.kind] += 1
            match layer:
                case FullyConnected():
                    fc_count += 1
                    name = f"fc{fc_count}"
                case Relu() if previous == "CONV":
                    name = previous_name.replace("conv", "relu")
                case Relu():
                    name = f"relu_{previous_name}"
                case _ if totals[layer.kind] > 1:
                    name = f"{layer.kind.lower()}{number}_{seen[layer.kind]}"
                case _:
                    name = f"{layer.kind.lower()}{number}"
            yield name, layer
            previous, previous_name = layer.kind, name
