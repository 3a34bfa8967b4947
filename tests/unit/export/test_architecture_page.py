"""The page that convscope describe shows of an architecture."""

import io

import pytest
from rich.console import Console

from convscope_export.architecture_page import show
from convscope_export.description import describe
from convscope_export.notation import parse
from convscope_export.presets import PRESETS

ALL_POOLS = (
    "INPUT(64x64x3) -> [CONV(512, 7x7) -> RELU]*4 -> POOL(max, 2x2) -> POOL(average, 2x2)"
    " -> POOL(l2, 3x3, stride 1) -> POOL(distance, 2x2) -> CONV(10, 1x1) -> POOL(average, global)"
)


def page(notation: str, columns: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=columns, highlight=False)
    show(parse(notation), console)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def row(lines: list[str], name: str) -> list[str]:
    (found,) = (line.split() for line in lines if line.split()[:1] == [name])
    return found[1:]


def test_each_layer_has_its_window_stride_padding_volume_and_counts() -> None:
    lines = page(ALL_POOLS)
    assert row(lines, "layer") == [
        *("filter", "stride", "padding", "output"),
        *("weights", "biases", "multiply-adds", "memory"),
    ]
    assert row(lines, "input") == ["64×64×3"]
    assert row(lines, "conv1") == [
        *("7×7", "1", "3", "64×64×512", "75,264", "512", "308,281,344", "8", "MiB")
    ]
    assert row(lines, "relu1") == ["64×64×512", "-", "-", "-", "8", "MiB"]
    pools = [line.split()[1:6] for line in lines if line.startswith("pool4")]
    assert pools == [
        ["max", "2×2", "2", "0", "32×32×512"],
        ["average", "2×2", "2", "0", "16×16×512"],
        ["l2", "3×3", "1", "0", "14×14×512"],
        ["distance", "2×2", "2", "0", "7×7×512"],
    ]
    assert row(lines, "pool5")[:3] == ["average", "7×7", "1×1×10"]


def test_totals_are_the_sums() -> None:
    architecture = parse(ALL_POOLS)
    total = row(page(ALL_POOLS), "total")
    assert total[:3] == [
        *(f"{architecture.weights:,}", f"{architecture.biases:,}"),
        f"{architecture.multiply_adds:,}",
    ]


def test_heads_stand_side_by_side() -> None:
    lines = page("INPUT(32x32x3) -> POOL(max, 2x2) -> FC(10)")
    start = lines.index(next(line for line in lines if line.startswith("head over 16×16×3")))
    assert [line.split() for line in lines[start + 2 : start + 5]] == [
        ["FC(10)", "7,690", "7,680"],
        ["POOL(average,", "global)", "->", "FC(10)", "instead", "40", "30"],
        ["global", "average", "pooling", "takes", "1/192", "1/256"],
    ]
    assert "global average pooling takes none none" in " ".join(" ".join(page(ALL_POOLS)).split())
    same = " ".join(" ".join(page("INPUT(1x1x8) -> FC(10)")).split())
    assert "global average pooling takes as many as many" in same


def test_warnings_stand_below() -> None:
    lines = page(ALL_POOLS)
    assert lines[-2:] == [
        "warning: conv1 to conv4: N = 4 CONV without a POOL between them; N <= 3 is usual",
        "warning: conv1, conv2, conv3, conv4: a filter of 7x7; 3x3, or at most 5x5, is usual",
    ]
    assert not any("warning" in line for line in page("INPUT(32x32x3) -> FC(10)"))


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", PRESETS)
def test_keeps_to_the_width_and_cuts_no_number(name: str, columns: int) -> None:
    architecture = PRESETS[name].architecture
    lines = page(str(architecture), columns)
    assert max(map(len, lines)) <= columns
    for placed in architecture.layers:
        found = row(lines, placed.name)
        if placed.weights:
            assert f"{placed.weights:,}" in found
            assert f"{placed.multiply_adds:,}" in found
    # Printed whole, over as many lines as it takes.
    assert str(architecture) in " ".join(" ".join(lines).split())


def test_json_holds_what_the_page_shows() -> None:
    described = describe(parse("INPUT(32x16x3) -> CONV(4, 3x3) -> RELU -> FC(10)"))
    assert described["input"] == {"depth": 3, "height": 16, "width": 32}
    assert described["layers"][0] == {
        **{"name": "conv1", "kind": "CONV", "notation": "CONV(4, 3x3)"},
        **{"window": (3, 3), "stride": 1, "padding": 1},
        "input": {"depth": 3, "height": 16, "width": 32},
        "volume": {"depth": 4, "height": 16, "width": 32},
        **{"weights": 108, "biases": 4, "multiply_adds": 108 * 512},
        "activations_bytes": 4 * 512 * 4,
    }
    fc = described["layers"][2]
    assert (fc["window"], fc["stride"], fc["padding"]) == (None, None, None)
    assert described["total"] == {
        **{"weights": 108 + 20_480, "biases": 14, "parameters": 20_602},
        **{"parameters_bytes": 82_408, "multiply_adds": 108 * 512 + 20_480},
        "activations_bytes": (2 * 2048 + 10) * 4,
    }
    assert described["heads"]["gap"]["parameters"] == 50
    assert described["warnings"] == []
