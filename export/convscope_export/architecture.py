"""ConvNet architectures: layers one after the other, with their volumes and their names.

Pure arithmetic: knows nothing of torch or ONNX.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from convscope_export.layers import (
    ArchitectureError,
    Conv,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    Pool,
    Relu,
    Repeat,
    Volume,
)

# Far above any image classifier (ResNet-152, VGG-16 at 224x224 with 138 million
# parameters), low enough that a slip of the pen cannot fill the memory.
MAX_LAYERS = 1_000
MAX_SIDE = 4_096
# 1 GiB of float32: the most that a server takes as one model file.
MAX_VALUES = 1 << 28


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
        """Multiplications for one picture."""
        return self.layer.multiply_adds(self.input)


@dataclass(frozen=True)
class Architecture:
    """An input volume and the layers over it; prints itself in ConvNet notation.

    Attributes:
        input: Volume of one picture.
        items: Layers and repeated groups, in order. The last layer makes the class
            scores: FC, or the global average of as many channels as there are classes.

    Raises:
        ArchitectureError: On making one that cannot be: volumes that do not
            fit, sizes below 1, CONV or POOL after FC, neither FC nor the global
            average at the end, or more than MAX_LAYERS, MAX_SIDE or MAX_VALUES.
    """

    input: Volume
    items: tuple[Layer | Repeat, ...]

    def __post_init__(self) -> None:
        last = self.layers[-1].layer if self.layers else "INPUT"
        if not isinstance(last, FullyConnected | GlobalAveragePool):
            raise ArchitectureError(
                "the last layer must be FC or POOL(average, global), it makes the class scores, "
                f"not {last}; append FC(10)",
                self.items[-1] if self.items else self.input,
            )

    @cached_property
    def layers(self) -> tuple[PlacedLayer, ...]:
        """Every layer, repetitions written out, with name and volumes.

        Optional pools that do not fit are left out; those that do are no longer optional.
        """
        self._check_size()
        placed: list[PlacedLayer] = []
        volume, after_fc = self.input, False
        for name, layer in _named(self.items, self.input):
            placed.append(_place(name, layer, volume, after_fc=after_fc))
            after_fc = after_fc or isinstance(layer, FullyConnected)
            volume = placed[-1].volume
        total = sum(layer.weights + layer.biases for layer in placed)
        if total > MAX_VALUES:
            largest = max(placed, key=lambda layer: layer.weights)
            raise ArchitectureError(
                f"expected at most {MAX_VALUES:,} weights and biases, got {total:,}, "
                f"{largest.weights:,} of them in {largest.name}",
                largest.layer,
            )
        return tuple(placed)

    def _check_size(self) -> None:
        for what, size, most in (
            ("width", self.input.width, MAX_SIDE),
            ("height", self.input.height, MAX_SIDE),
            ("depth", self.input.depth, MAX_VALUES),
        ):
            if not 1 <= size <= most:
                raise ArchitectureError(
                    f"INPUT({self.input}): expected a {what} of 1 to {most:,}, got {size:,}",
                    self.input,
                )
        _check_values("INPUT", self.input, self.input)
        # Counted before anything is written out: repetitions multiply.
        for item in self.items:
            if isinstance(item, Repeat) and item.count() > MAX_LAYERS:
                raise ArchitectureError(
                    f"expected at most {MAX_LAYERS:,} layers, got {item.count():,} in this group; "
                    "repeat it less often",
                    item,
                )
        count = Repeat(self.items).count()
        if count > MAX_LAYERS:
            raise ArchitectureError(f"expected at most {MAX_LAYERS:,} layers, got {count:,}")

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


def _check_values(name: str, volume: Volume, item: Layer | Volume) -> None:
    if volume.values > MAX_VALUES:
        raise ArchitectureError(
            f"{name}: expected a volume of at most {MAX_VALUES:,} values, "
            f"got {volume}, {volume.values:,}",
            item,
        )


def _place(name: str, layer: Layer, volume: Volume, *, after_fc: bool) -> PlacedLayer:
    if after_fc and isinstance(layer, Conv | Pool | GlobalAveragePool):
        raise ArchitectureError(f"{name}: {layer} cannot follow FC: move it before", layer)
    try:
        output = layer.output(volume)
    except ArchitectureError as error:
        raise ArchitectureError(
            f"{name}: {layer} does not fit its input {volume}: {error}", layer
        ) from error
    _check_values(name, output, layer)
    if isinstance(layer, Pool) and layer.optional:
        layer = dataclasses.replace(layer, optional=False)
    return PlacedLayer(name, layer, volume, output)


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


def _without_unfit_options(blocks: Iterator[list[Layer]], volume: Volume) -> Iterator[list[Layer]]:
    """The blocks without those optional pools that do not fit their input."""
    for block in blocks:
        present = []
        for layer in block:
            try:
                volume = layer.output(volume)
            except ArchitectureError:
                if isinstance(layer, Pool) and layer.optional:
                    continue
                # Told when it is placed, with its name; what follows it does not matter.
            present.append(layer)
        yield present


def _named(items: Sequence[Layer | Repeat], volume: Volume) -> Iterator[tuple[str, Layer]]:
    """Name each layer as a person would; the names are unique and never change.

    `conv3` is the convolution of the third block, `conv3_2` the second where
    the block has several; pools alike; a ReLU after a CONV takes its number,
    after another layer that layer's name (`relu_fc1`); FC layers count up.
    """
    fc_count = 0
    previous, previous_name = "", "input"
    for number, block in enumerate(_without_unfit_options(_blocks(items), volume), start=1):
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
