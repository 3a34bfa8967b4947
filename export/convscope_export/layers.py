"""The layers of a ConvNet: what each makes of its input volume, and what that takes.

Pure arithmetic: knows nothing of torch or ONNX. Volumes are written width x
height x depth, as ConvNet courses do (32x32x3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from convscope_export.errors import ExportError


class ArchitectureError(ExportError):
    """A layer that cannot be: the message names it and shows the numbers."""


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
    """Output width or height, (W - F + 2P)/S + 1; raises ArchitectureError without a name."""
    span = input_size - window + 2 * padding
    formula = f"({input_size} - {window} + 2*{padding})/{stride} + 1"
    if span < 0:
        raise ArchitectureError(f"its window {window}x{window} is larger than its input: {formula}")
    if span % stride:
        raise ArchitectureError(f"{formula} = {span / stride + 1:g} is not whole")
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
        _check_least(self, 0, pad=self.zeros)

    @property
    def zeros(self) -> int:
        """Zeros on each side of the input."""
        return (self.size - 1) // 2 if self.padding is None else self.padding

    def output(self, volume: Volume) -> Volume:
        if self.padding is None and self.size % 2 == 0:
            raise ArchitectureError(
                f"an even filter, {self.size}x{self.size}, has no padding that keeps the size: "
                "write the padding out"
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

    def __str__(self) -> str:
        settings = [str(self.filters), f"{self.size}x{self.size}"]
        if self.stride != 1:
            settings.append(f"stride {self.stride}")
        if self.padding is not None:
            settings.append(f"pad {self.padding}")
        return f"CONV({', '.join(settings)})"


@dataclass(frozen=True)
class Relu:
    """max(0, x) of every value."""

    kind: ClassVar[str] = "RELU"

    def output(self, volume: Volume) -> Volume:
        return volume

    def weights(self, volume: Volume) -> int:
        return 0

    def biases(self) -> int:
        return 0

    def __str__(self) -> str:
        return "RELU"


@dataclass(frozen=True)
class Pool:
    """The largest or the mean value of each size x size window; stride None is the size."""

    method: Literal["max", "average"]
    size: int
    stride: int | None = None

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

    def weights(self, volume: Volume) -> int:
        return 0

    def biases(self) -> int:
        return 0

    def __str__(self) -> str:
        stride = "" if self.stride is None else f", stride {self.stride}"
        return f"POOL({self.method}, {self.size}x{self.size}{stride})"


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

    def __str__(self) -> str:
        return f"FC({self.outputs})"


Layer = Conv | Relu | Pool | FullyConnected


@dataclass(frozen=True)
class Repeat:
    """`[items]*times`: the items in order, the whole of them so many times."""

    items: tuple["Layer | Repeat", ...]
    times: int = 1

    def __post_init__(self) -> None:
        _check_least(self, 1, times=self.times)

    def expanded(self) -> Iterator[Layer]:
        for _ in range(self.times):
            for item in self.items:
                yield from item.expanded() if isinstance(item, Repeat) else (item,)

    def __str__(self) -> str:
        return f"[{' -> '.join(map(str, self.items))}]*{self.times}"
