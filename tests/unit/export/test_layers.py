import math
from pathlib import Path

import pytest

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
    distance_weights,
)

PAGE = (Path(__file__).parents[3] / "docs" / "notation.md").read_text(encoding="utf-8")
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
        (Pool("distance", 4, stride=4), Volume(3, 8, 8)),
        (GlobalAveragePool(), Volume(3, 1, 1)),
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


@pytest.mark.parametrize(
    ("layer", "multiply_adds"),
    [
        (Conv(7, 5, stride=3, padding=0), 7 * 5 * 5 * 3 * 10 * 10),
        (FullyConnected(5), 5 * 32 * 32 * 3),
        (Relu(), 0),
        (Pool("max", 2), 0),
        (Pool("average", 2), 0),
        (GlobalAveragePool(), 0),
        # Each output is a sum of F*F products.
        (Pool("l2", 2), 16 * 16 * 3 * 4),
        (Pool("distance", 3, stride=1), 30 * 30 * 3 * 9),
    ],
    ids=str,
)
def test_multiply_adds(layer: Layer, multiply_adds: int) -> None:
    assert layer.multiply_adds(CIFAR) == multiply_adds


def test_a_repeated_group_is_counted_without_being_written_out() -> None:
    group = Repeat((Relu(), Repeat((Conv(1, 1), Relu()), 3)), 1_000_000)
    assert group.count() == 7_000_000
    assert Repeat((Relu(), Repeat((FullyConnected(2),), 2)), 2).expanded() == (
        *(Relu(), FullyConnected(2), FullyConnected(2)),
        *(Relu(), FullyConnected(2), FullyConnected(2)),
    )


def test_weights_by_distance_of_a_3x3_window_by_hand() -> None:
    # 1/(1 + d): 1 in the middle, 1/2 beside it, 1/(1 + sqrt 2) in the corners.
    corner = 1 / (1 + math.sqrt(2))
    total = 1 + 4 / 2 + 4 * corner
    rows = ((corner, 0.5, corner), (0.5, 1, 0.5), (corner, 0.5, corner))
    for found, expected in zip(distance_weights(3), rows, strict=True):
        assert found == pytest.approx([weight / total for weight in expected])
        assert f"| {' | '.join(f'{weight:.3f}' for weight in found)} |" in PAGE


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_weights_by_distance_sum_to_1_and_are_symmetric(size: int) -> None:
    weights = distance_weights(size)
    assert sum(map(sum, weights)) == pytest.approx(1)
    assert weights == tuple(zip(*weights, strict=True))
    assert weights == weights[::-1]
    assert weights[size // 2][size // 2] == max(map(max, weights))
