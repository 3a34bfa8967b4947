from pathlib import Path

import pytest

from convscope_export.notation import EXAMPLE, parse
from convscope_export.presets import PRESETS
from convscope_export.rules_of_thumb import broken

PAGE = (Path(__file__).parents[3] / "docs" / "notation.md").read_text(encoding="utf-8")

WARNINGS = {
    "INPUT(28x28x3) -> FC(10)": (
        "INPUT: 28 is divisible by 2 only twice; usual are sizes that pools can halve several "
        "times, such as 32, 64, 96, 224, 384 and 512"
    ),
    "INPUT(32x32x3) -> [CONV(8, 3x3) -> RELU]*4 -> FC(10)": (
        "conv1 to conv4: N = 4 CONV without a POOL between them; N <= 3 is usual"
    ),
    "INPUT(32x32x3) -> CONV(8, 7x7) -> FC(10)": (
        "conv1: a filter of 7x7; 3x3, or at most 5x5, is usual"
    ),
    "INPUT(32x32x3) -> CONV(8, 5x5, stride 3, padding none) -> FC(10)": (
        "conv1: stride 3; stride 1 is usual, and leaves the halving to POOL"
    ),
    "INPUT(32x32x3) -> CONV(8, 3x3, padding none) -> FC(10)": (
        "conv1: padding none changes width and height; zero padding that keeps them is usual"
    ),
    "INPUT(32x32x3) -> [FC(20) -> RELU]*3 -> FC(10)": "K = 3 hidden FC layers; K < 3 is usual",
}


@pytest.mark.parametrize("notation", WARNINGS)
def test_a_broken_rule_is_a_warning_that_the_page_tells(notation: str) -> None:
    assert broken(parse(notation)) == [WARNINGS[notation]]
    assert f"| {WARNINGS[notation]} |" in PAGE


@pytest.mark.parametrize("side", [32, 64, 96, 224, 384, 512])
def test_the_usual_sizes_break_none(side: int) -> None:
    assert broken(parse(EXAMPLE.replace("32x32", f"{side}x{side}"))) == []


def test_the_largest_usual_architecture_breaks_none() -> None:
    usual = "[[CONV(8, 3x3) -> RELU -> CONV(8, 5x5) -> RELU -> CONV(8, 1x1) -> RELU]*1"
    head = "[FC(20) -> RELU]*2 -> FC(10)"
    text = f"INPUT(32x32x3) -> {usual} -> POOL(max, 2x2)]*3 -> {head}"
    assert broken(parse(text)) == []
    assert broken(PRESETS["vgg16"].architecture) == []


def test_a_side_that_is_odd_and_one_that_is_even_are_both_told() -> None:
    odd, once = broken(parse("INPUT(33x34x3) -> FC(10)"))
    assert odd.startswith("INPUT: 33 is odd;")
    assert once.startswith("INPUT: 34 is divisible by 2 only once;")


def test_many_layers_share_a_line() -> None:
    (line,) = broken(parse("INPUT(32x32x3) -> [CONV(8, 7x7) -> POOL(max, 1x1)]*6 -> FC(10)"))
    assert line.startswith("conv1, conv2, conv3, conv4 and 2 more: a filter of 7x7")
