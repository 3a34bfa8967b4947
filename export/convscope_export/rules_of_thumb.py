"""What ConvNet courses advise: architectures that break it work, so these are only warnings.

Source: Stanford CS231n, Convolutional Networks, "Layer Patterns" and "Layer Sizing
Patterns". Pure arithmetic.
"""

from collections.abc import Iterator, Sequence

from convscope_export.architecture import Architecture, PlacedLayer
from convscope_export.layers import Conv, FullyConnected

_MOST_CONVS = 3
_MOST_HIDDEN_FC = 2
# "Divisible by 2 many times": 32, 64, 96, 224, 384 and 512 all are at least five times.
_LEAST_HALVINGS = 3
_USUAL_SIZES = (3, 5)


def broken(architecture: Architecture) -> list[str]:
    """One line for each rule of thumb that an architecture does not keep, and where."""
    return [
        *_input(architecture),
        *_convs_in_a_row(architecture.layers),
        *_filters(architecture.layers),
        *_hidden_fc(architecture.layers),
    ]


def _input(architecture: Architecture) -> Iterator[str]:
    for size in sorted({architecture.input.width, architecture.input.height}):
        halvings = (size & -size).bit_length() - 1
        if halvings < _LEAST_HALVINGS:
            divisible = ("is odd", "is divisible by 2 only once", "is divisible by 2 only twice")
            yield (
                f"INPUT: {size} {divisible[halvings]}; usual are sizes that pools can halve "
                "several times, such as 32, 64, 96, 224, 384 and 512"
            )


def _convs_in_a_row(layers: Sequence[PlacedLayer]) -> Iterator[str]:
    row: list[str] = []
    for layer in layers:
        if isinstance(layer.layer, Conv):
            row.append(layer.name)
        elif layer.layer.kind != "RELU":
            yield from _too_many_convs(row)
            row = []


def _too_many_convs(row: Sequence[str]) -> Iterator[str]:
    if len(row) > _MOST_CONVS:
        yield (
            f"{row[0]} to {row[-1]}: N = {len(row)} CONV without a POOL between them; "
            f"N <= {_MOST_CONVS} is usual"
        )


def _filters(layers: Sequence[PlacedLayer]) -> Iterator[str]:
    convs = [(placed.name, placed.layer) for placed in layers if isinstance(placed.layer, Conv)]
    # 1x1 filters mix channels and look at no neighbours: they have no size to speak of.
    sizes = [(name, conv.size) for name, conv in convs if conv.size not in (1, *_USUAL_SIZES)]
    for size, names in _grouped(sizes):
        yield f"{names}: a filter of {size}x{size}; 3x3, or at most 5x5, is usual"
    for stride, names in _grouped([(name, c.stride) for name, c in convs if c.stride != 1]):
        yield f"{names}: stride {stride}; stride 1 is usual, and leaves the halving to POOL"
    changing = [c for c in convs if c[1].stride == 1 and 2 * c[1].zeros != c[1].size - 1]
    for zeros, names in _grouped([(name, conv.zeros) for name, conv in changing]):
        yield (
            f"{names}: padding {zeros or 'none'} changes width and height; zero padding that "
            "keeps them is usual"
        )


def _grouped(values: Sequence[tuple[str, int]]) -> Iterator[tuple[int, str]]:
    """Each value once, with the names of the layers that have it, no more than fit a line."""
    for value in sorted({value for _, value in values}):
        names = [name for name, other in values if other == value]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield value, ", ".join(names[:4]) + more


def _hidden_fc(layers: Sequence[PlacedLayer]) -> Iterator[str]:
    hidden = sum(isinstance(placed.layer, FullyConnected) for placed in layers[:-1])
    if hidden > _MOST_HIDDEN_FC:
        yield f"K = {hidden} hidden FC layers; K < {_MOST_HIDDEN_FC + 1} is usual"
