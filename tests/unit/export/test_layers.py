import pytest

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

CIFAR = Volume(depth=3, height=32, width=32)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Conv(7, 3), Volume(7, 32, 32)),
        (Conv(7, 5), Volume(7, 32, 32)),
        (Conv(7, 3, padding=0), Volume(7, 30, 30)),
        (Conv(7, 6, stride=2, padding=2), Volume(7, 16, 16)),
        (Conv(7, 11, stride=3, padding=0), Volume(7, 8, 8)),
        (Pool("max", 2), Volume(3, 16, 16)),
        (Pool("max", 2, stride=1), Volume(3, 31, 31)),
        (Relu(), CIFAR),
        (FullyConnected(5), Volume(5, 1, 1)),
    ],
    ids=str,
)
def test_output_volume(layer: Layer, expected: Volume) -> None:
    assert layer.output(CIFAR) == expected


def test_sizes_below_one_are_errors_that_name_the_setting() -> None:
    with pytest.raises(ArchitectureError, match=r"CONV\(0, 3x3\): filters must be at least 1"):
        Conv(0, 3)
    with pytest.raises(ArchitectureError, match="stride must be at least 1, not 0"):
        Conv(1, 3, stride=0)
    with pytest.raises(ArchitectureError, match="padding must be at least 0, not -1"):
        Conv(1, 3, padding=-1)
    with pytest.raises(ArchitectureError, match="size must be at least 1"):
        Pool("max", 0)
    with pytest.raises(ArchitectureError, match="outputs must be at least 1"):
        FullyConnected(0)
    with pytest.raises(ArchitectureError, match="times must be at least 0, not -1"):
        Repeat((Relu(),), -1)
