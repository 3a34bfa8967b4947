"""The layers of a ConvNet: what each makes of its input volume, and what that takes.

Pure arithmetic: knows nothing of torch or ONNX. Volumes are written width x
height x depth, as ConvNet courses do (32x32x3).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from convscope_export.errors import ExportError


class ArchitectureError(ExportError):
    """A layer that cannot be: the message names it and shows the numbers.

    Attributes:
        item: The layer, group or input volume at fault, itself and not a copy; None
            where it is none of them alone.
    """

    def __init__(self, message: str, item: "Layer | Repeat | Volume | None" = None) -> None:
        """Keep the one line, and what it is about."""
        super().__init__(message)
        self.item = item


@dataclass(frozen=True)
class Volume:
    """What a layer takes or makes: depth channels of height x width values."""

    depth: int
    height: int
    width: int

    @property
    def values(self) -> int:
        return self.depth * self.height * self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.depth}"


def _extent(input_size: int, window: int, stride: int, padding: int) -> int:
    """Output width or height, (W - F + 2P)/S + 1; raises ArchitectureError without a name.

    The formula: Stanford CS231n, Convolutional Networks, "Spatial arrangement".
    """
    span = input_size - window + 2 * padding
    formula = f"(W - F + 2P)/S + 1 = ({input_size} - {window} + 2*{padding})/{stride} + 1"
    if span < 0:
        raise ArchitectureError(
            f"its window {window}x{window} is larger than its input: {formula}; "
            "make the window smaller"
        )
    if span % stride:
        raise ArchitectureError(
            f"{formula} = {span / stride + 1:g} is not whole; change window, stride or padding"
        )
    return span // stride + 1


def _check_least(layer: object, least: int, **settings: int) -> None:
    for setting, value in settings.items():
        if value < least:
            raise ArchitectureError(f"{layer}: {setting} must be at least {least}, not {value}")


@dataclass(frozen=True)
class Conv:
    """Convolution: `filters` filters of size x size over the whole input depth, with biases.

    `padding` is the number of zeros on each side; None keeps width and height
    at stride 1, which takes an odd size.
    """

    filters: int
    size: int
    stride: int = 1
    padding: int | None = None

    kind: ClassVar[str] = "CONV"

    def __post_init__(self) -> None:
        _check_least(self, 1, filters=self.filters, size=self.size, stride=self.stride)
        _check_least(self, 0, padding=self.zeros)

    @property
    def zeros(self) -> int:
        """Zeros on each side of the input."""
        return (self.size - 1) // 2 if self.padding is None else self.padding

    def output(self, volume: Volume) -> Volume:
        if self.padding is None and self.size % 2 == 0:
            raise ArchitectureError(
                f"an even filter, {self.size}x{self.size}, has no padding that keeps the size: "
                "write the padding out, for example padding none"
            )
        height, width = (
            _extent(side, self.size, self.stride, self.zeros)
            for side in (volume.height, volume.width)
        )
        return Volume(self.filters, height, width)

    def weights(self, volume: Volume) -> int:
        return self.filters * self.size * self.size * volume.depth

    def biases(self) -> int:
        return self.filters

    def multiply_adds(self, volume: Volume) -> int:
        """Multiplications for one picture: every weight is used at every output position."""
        output = self.output(volume)
        return self.weights(volume) * output.height * output.width

    def __str__(self) -> str:
        settings = [str(self.filters), f"{self.size}x{self.size}"]
        if self.stride != 1:
            settings.append(f"stride {self.stride}")
        if self.padding is not None:
            settings.append(f"padding {self.padding or 'none'}")
        return f"CONV({', '.join(settings)})"


class _WithoutWeights:
    """What layers have in common that learn nothing."""

    def weights(self, volume: Volume) -> int:
        return 0

    def biases(self) -> int:
        return 0

    def multiply_adds(self, volume: Volume) -> int:
        return 0


@dataclass(frozen=True)
class Relu(_WithoutWeights):
    """max(0, x) of every value."""

    kind: ClassVar[str] = "RELU"

    def output(self, volume: Volume) -> Volume:
        return volume

    def __str__(self) -> str:
        return "RELU"


PoolMethod = Literal["max", "average", "l2", "distance"]


@dataclass(frozen=True)
class Pool(_WithoutWeights):
    """One value for each size x size window of a channel; stride None is the size.

    `method` is one of the four that Goodfellow, Bengio and Courville, Deep Learning
    (2016), section 9.3, name: the largest value (max), the mean (average), the L2
    norm sqrt(sum of x^2) (l2), or "a weighted average based on the distance from the
    central pixel" (distance), with the weights of distance_weights().

    An `optional` pool is left out where it does not fit its input.
    """

    method: PoolMethod
    size: int
    stride: int | None = None
    optional: bool = False

    kind: ClassVar[str] = "POOL"

    def __post_init__(self) -> None:
        _check_least(self, 1, size=self.size, stride=self.step)

    @property
    def step(self) -> int:
        """Distance between two windows."""
        return self.size if self.stride is None else self.stride

    def output(self, volume: Volume) -> Volume:
        height, width = (
            _extent(side, self.size, self.step, 0) for side in (volume.height, volume.width)
        )
        return Volume(volume.depth, height, width)

    def multiply_adds(self, volume: Volume) -> int:
        """A sum of products over each window: of values by themselves, or by fixed weights."""
        if self.method in ("l2", "distance"):
            return self.output(volume).values * self.size * self.size
        return 0

    def __str__(self) -> str:
        stride = "" if self.stride is None else f", stride {self.stride}"
        return f"POOL({self.method}, {self.size}x{self.size}{stride}){'?' * self.optional}"


def distance_weights(size: int) -> tuple[tuple[float, ...], ...]:
    """Weights of the pool by distance, size x size, row by row; their sum is 1.

    A value at distance d from the window's centre, in pixels, weighs 1/(1 + d) before
    all are divided by their sum. Deep Learning, section 9.3, leaves the function open:
    this one has nothing to choose, and can be done by hand. In a 2x2 window all four
    are equally far from the centre, so there it is the mean.
    """
    centre = (size - 1) / 2
    rows = [
        [1 / (1 + math.hypot(y - centre, x - centre)) for x in range(size)] for y in range(size)
    ]
    total = math.fsum(weight for row in rows for weight in row)
    return tuple(tuple(weight / total for weight in row) for row in rows)


@dataclass(frozen=True)
class GlobalAveragePool(_WithoutWeights):
    """The mean of each channel (Lin, Chen and Yan, Network In Network, 2013, section 3.2)."""

    kind: ClassVar[str] = "POOL"

    def output(self, volume: Volume) -> Volume:
        return Volume(volume.depth, 1, 1)

    def __str__(self) -> str:
        return "POOL(average, global)"


@dataclass(frozen=True)
class FullyConnected:
    """Every output is a weighted sum of every input value, plus a bias."""

    outputs: int

    kind: ClassVar[str] = "FC"

    def __post_init__(self) -> None:
        _check_least(self, 1, outputs=self.outputs)

    def output(self, volume: Volume) -> Volume:
        return Volume(self.outputs, 1, 1)

    def weights(self, volume: Volume) -> int:
        return self.outputs * volume.values

    def biases(self) -> int:
        return self.outputs

    def multiply_adds(self, volume: Volume) -> int:
        """Multiplications for one picture: every weight is used once."""
        return self.weights(volume)

    def __str__(self) -> str:
        return f"FC({self.outputs})"


Layer = Conv | Relu | Pool | GlobalAveragePool | FullyConnected


@dataclass(frozen=True)
class Repeat:
    """`[items]*times`: the items in order, the whole of them so many times, 0 for not at all."""

    items: tuple["Layer | Repeat", ...]
    times: int = 1

    def __post_init__(self) -> None:
        _check_least(self, 0, times=self.times)

    def count(self) -> int:
        """How many layers it stands for, without writing them out."""
        return self.times * sum(
            item.count() if isinstance(item, Repeat) else 1 for item in self.items
        )

    def expanded(self) -> tuple[Layer, ...]:
        """The layers it stands for, written out."""
        once: list[Layer] = []
        for item in self.items:
            once.extend(item.expanded() if isinstance(item, Repeat) else (item,))
        return tuple(once) * self.times

    def __str__(self) -> str:
        return f"[{' -> '.join(map(str, self.items))}]*{self.times}"
