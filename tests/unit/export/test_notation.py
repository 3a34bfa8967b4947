"""What the notation accepts, what it prints back, and what it says of everything else."""

import re
from pathlib import Path

import pytest

from convscope_export.layers import (
    Conv,
    FullyConnected,
    GlobalAveragePool,
    Pool,
    Relu,
    Repeat,
    Volume,
)
from convscope_export.notation import EXAMPLE, NotationError, is_notation, parse
from convscope_export.presets import PRESETS

PAGE = (Path(__file__).parents[3] / "docs" / "notation.md").read_text(encoding="utf-8")


def test_reads_volume_layers_and_groups() -> None:
    architecture = parse(EXAMPLE)
    assert architecture.input == Volume(depth=3, height=32, width=32)
    assert architecture.items == (
        Repeat((Repeat((Conv(12, 3), Relu()), 1), Pool("max", 2)), 1),
        FullyConnected(10),
    )


@pytest.mark.parametrize(
    ("element", "layer", "printed"),
    [
        ("CONV(8, 5x5)", Conv(8, 5), None),
        ("CONV(8, 3x3, stride 1)", Conv(8, 3), "CONV(8, 3x3)"),
        ("CONV(8, 4x4, stride 2, padding 1)", Conv(8, 4, 2, 1), None),
        (
            "CONV(8, 4x4, padding 1, stride 2)",
            Conv(8, 4, 2, 1),
            "CONV(8, 4x4, stride 2, padding 1)",
        ),
        ("CONV(8, 3x3, padding none)", Conv(8, 3, padding=0), None),
        ("CONV(8, 3x3, padding 0)", Conv(8, 3, padding=0), "CONV(8, 3x3, padding none)"),
        ("CONV(8, 3x3, padding same)", Conv(8, 3), "CONV(8, 3x3)"),
        ("POOL(max, 2x2)", Pool("max", 2), None),
        ("POOL(average, 4x4, stride 2)", Pool("average", 4, 2), None),
        ("POOL(l2, 2x2)", Pool("l2", 2), None),
        ("POOL(distance, 3x3, stride 1)", Pool("distance", 3, 1), None),
        ("POOL(max, 2x2)?", Pool("max", 2, optional=True), None),
        ("POOL(average, global)", GlobalAveragePool(), None),
        ("RELU", Relu(), None),
        ("FC(7)", FullyConnected(7), None),
        ("[RELU]", Repeat((Relu(),)), "[RELU]*1"),
        ("[FC(7) -> RELU]*0", Repeat((FullyConnected(7), Relu()), 0), None),
        ("[[RELU]*2 -> RELU]*3", Repeat((Repeat((Relu(),), 2), Relu()), 3), None),
    ],
)
def test_every_element_is_read_and_printed(
    element: str, layer: object, printed: str | None
) -> None:
    architecture = parse(f"INPUT(32x32x3) -> {element} -> FC(10)")
    assert architecture.items == (layer, FullyConnected(10))
    assert str(architecture) == f"INPUT(32x32x3) -> {printed or element} -> FC(10)"


@pytest.mark.parametrize(
    "text",
    [
        "input(32x32x3)->conv(12,3x3)->relu->pool(MAX,2x2)->fc(10)",
        "INPUT ( 32 x 32 x 3 )\n  -> CONV (12 , 3 X 3)\n\t-> RELU\n  -> POOL(max, 2x2) -> FC(10)\n",
        "INPUT(32×32×3) → CONV(12, 3×3) → RELU → POOL(max, 2×2) → FC(10)",
    ],
    ids=["lower case", "white space", "as on slides"],
)
def test_case_white_space_and_typography_do_not_matter(text: str) -> None:
    assert str(parse(text)) == (
        "INPUT(32x32x3) -> CONV(12, 3x3) -> RELU -> POOL(max, 2x2) -> FC(10)"
    )


def test_an_optional_pool_is_left_out_where_it_does_not_fit() -> None:
    text = "INPUT(12x12x3) -> [CONV(4, 3x3) -> RELU -> POOL(max, 2x2)?]*4 -> FC(10)"
    architecture = parse(text)
    assert str(architecture) == text
    # 12 -> 6 -> 3, and 3 is odd: the third and the fourth pool are left out.
    assert [(p.name, str(p.layer)) for p in architecture.layers if p.layer.kind == "POOL"] == [
        ("pool1", "POOL(max, 2x2)"),
        ("pool2", "POOL(max, 2x2)"),
    ]
    assert [str(placed.input) for placed in architecture.layers if placed.name == "conv4"] == [
        "3x3x4"
    ]


def test_presets_print_what_the_page_shows() -> None:
    for name, preset in PRESETS.items():
        assert f"| `{name}` | `{preset.architecture}` |" in PAGE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (EXAMPLE, True),
        ("INPUT", True),
        ("  INPUT(3", True),
        ("CONV -> FC", True),
        ("CONV → FC", True),
        ("simple", False),
        ("vgg16", False),
        ("runs/input", False),
        ("INPUTS", False),
        ("input", False),
        ("", False),
    ],
)
def test_a_name_is_no_notation(text: str, expected: bool) -> None:
    assert is_notation(text) is expected


# The message, the line and the carets, as they are printed.
ERRORS = """\
expected INPUT first, such as INPUT(32x32x3), got CONV
  CONV(12, 3x3) -> FC(10)
  ^^^^

INPUT lacks its numbers: this is the general form. Put numbers in place of its letters, \
for example INPUT(32x32x3) -> [[CONV(12, 3x3) -> RELU]*1 -> POOL(max, 2x2)]*1 -> FC(10)
  INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC
  ^^^^^

INPUT: expected a volume WxHxD, such as 32x32x3, got 32x32
  INPUT(32x32) -> FC(10)
        ^^^^^

INPUT: expected a volume WxHxD, such as 32x32x3, got WxHxD; put a number in place of the letter
  INPUT(WxHxD) -> FC(10)
        ^^^^^

INPUT: expected ), got ,
  INPUT(32x32x3, 8) -> FC(10)
               ^

expected INPUT once, at the beginning
  INPUT(32x32x3) -> INPUT(32x32x3) -> FC(10)
                    ^^^^^

expected -> before the next layer, got FC
  INPUT(32x32x3) FC(10)
                 ^^

expected -> before the next layer, got ]
  INPUT(32x32x3) -> FC(10)]
                          ^

expected CONV, RELU, POOL, FC or a group [...], got DENSE
  INPUT(32x32x3) -> DENSE(10)
                    ^^^^^

expected CONV, RELU, POOL, FC or a group [...], got the end
  INPUT(32x32x3) ->
                   ^

expected CONV, RELU, POOL, FC or a group [...], got ]
  INPUT(32x32x3) -> [] -> FC(10)
                     ^

SOFTMAX is not written: every model computes it from its last layer; leave it out
  INPUT(32x32x3) -> FC(10) -> SOFTMAX
                              ^^^^^^^

CONV lacks its numbers: expected CONV(filters, FxF), for example CONV(12, 3x3)
  INPUT(32x32x3) -> CONV -> RELU -> FC(10)
                    ^^^^

POOL lacks its numbers: expected POOL(method, FxF), for example POOL(max, 2x2)
  INPUT(32x32x3) -> POOL? -> FC(10)
                    ^^^^

FC lacks its numbers: expected FC(outputs), for example FC(10)
  INPUT(32x32x3) -> FC
                    ^^

*: expected a number, how often, such as *2, got N; put a number in place of the letter
  INPUT(32x32x3) -> [CONV(12, 3x3) -> RELU]*N -> FC(10)
                                            ^

CONV: expected a number, how many filters, got K; put a number in place of the letter
  INPUT(32x32x3) -> CONV(K, 3x3) -> FC(10)
                         ^

CONV: expected , and a filter size, such as 3x3, got )
  INPUT(32x32x3) -> CONV(12) -> FC(10)
                           ^

CONV: expected a filter size FxF, such as 3x3, got FxF; put a number in place of the letter
  INPUT(32x32x3) -> CONV(12, FxF) -> FC(10)
                             ^^^

CONV: expected a filter size FxF, such as 3x3, got 3
  INPUT(32x32x3) -> CONV(12, 3) -> FC(10)
                             ^

CONV: expected a filter size FxF, such as 3x3, as wide as high, got 3x5
  INPUT(32x32x3) -> CONV(12, 3x5) -> FC(10)
                             ^^^

CONV: expected stride or padding, got pad
  INPUT(32x32x3) -> CONV(12, 3x3, pad 1) -> FC(10)
                                  ^^^

CONV: expected stride once, got it twice
  INPUT(32x32x3) -> CONV(12, 3x3, stride 2, stride 2) -> FC(10)
                                            ^^^^^^

CONV: expected , or ), got stride
  INPUT(32x32x3) -> CONV(12, 3x3 stride 2) -> FC(10)
                                 ^^^^^^

padding: expected a number, zeros on each side, none or same, got -
  INPUT(32x32x3) -> CONV(12, 3x3, padding -1) -> FC(10)
                                          ^

stride: expected a number, a number of pixels, got none
  INPUT(32x32x3) -> CONV(12, 3x3, stride none) -> FC(10)
                                         ^^^^

CONV(12, 3x3, stride 0): stride must be at least 1, not 0
  INPUT(32x32x3) -> CONV(12, 3x3, stride 0) -> FC(10)
                    ^^^^^^^^^^^^^^^^^^^^^^^

CONV(0, 3x3): filters must be at least 1, not 0
  INPUT(32x32x3) -> CONV(0, 3x3) -> FC(10)
                    ^^^^^^^^^^^^

POOL: expected max, average, l2 or distance, got min
  INPUT(32x32x3) -> POOL(min, 2x2) -> FC(10)
                         ^^^

POOL: expected , and a window size, such as 2x2, or global, got )
  INPUT(32x32x3) -> POOL(max) -> FC(10)
                            ^

POOL: expected a window size FxF, such as 2x2, or global, got 2
  INPUT(32x32x3) -> POOL(max, 2) -> FC(10)
                              ^

POOL: expected average with global, got max
  INPUT(32x32x3) -> POOL(max, global) -> FC(10)
                         ^^^

POOL: expected stride, got padding
  INPUT(32x32x3) -> POOL(max, 2x2, padding 1) -> FC(10)
                                   ^^^^^^^

POOL(max, 0x0): size must be at least 1, not 0
  INPUT(32x32x3) -> POOL(max, 0x0) -> FC(10)
                    ^^^^^^^^^^^^^^

FC: expected a number, how many outputs, got )
  INPUT(32x32x3) -> FC()
                       ^

FC: expected ), got the end
  INPUT(32x32x3) -> FC(10
                         ^

FC(0): outputs must be at least 1, not 0
  INPUT(32x32x3) -> FC(0)
                    ^^^^^

expected RELU alone, it has no settings, got (
  INPUT(32x32x3) -> RELU(1) -> FC(10)
                        ^

expected ? after POOL only: a pool is left out where it does not fit, anything else is written \
or not
  INPUT(32x32x3) -> RELU? -> FC(10)
                        ^

expected ] for this [, got the end
  INPUT(32x32x3) -> [CONV(12, 3x3) -> RELU -> FC(10)
                    ^

expected -> before the next layer, got )
  INPUT(32x32x3) -> [RELU) -> FC(10)
                         ^

expected at most 10 groups inside one another
  INPUT(8x8x3) -> [[[[[[[[[[[RELU]]]]]]]]]]] -> FC(10)
                            ^

expected a number of at most 7 digits
  INPUT(32x32x3) -> FC(12345678)
                       ^^^^^^^^

conv1: CONV(12, 3x3, stride 2) does not fit its input 32x32x3: (W - F + 2P)/S + 1 = \
(32 - 3 + 2*1)/2 + 1 = 16.5 is not whole; change window, stride or padding
  INPUT(32x32x3) -> CONV(12, 3x3, stride 2) -> FC(10)
                    ^^^^^^^^^^^^^^^^^^^^^^^

conv1: CONV(12, 4x4) does not fit its input 32x32x3: an even filter, 4x4, has no padding that \
keeps the size: write the padding out, for example padding none
  INPUT(32x32x3) -> CONV(12, 4x4) -> FC(10)
                    ^^^^^^^^^^^^^

pool4: POOL(max, 2x2) does not fit its input 1x1x3: its window 2x2 is larger than its input: \
(W - F + 2P)/S + 1 = (1 - 2 + 2*0)/2 + 1; make the window smaller
  INPUT(8x8x3) -> [CONV(3, 3x3) -> POOL(max, 2x2)]*5 -> FC(10)
                                   ^^^^^^^^^^^^^^

pool1: POOL(max, 2x2) cannot follow FC: move it before
  INPUT(32x32x3) -> FC(10) -> POOL(max, 2x2) -> FC(10)
                              ^^^^^^^^^^^^^^

the last layer must be FC or POOL(average, global), it makes the class scores, not RELU; append \
FC(10)
  INPUT(32x32x3) -> [CONV(12, 3x3) -> RELU]*2
                    ^^^^^^^^^^^^^^^^^^^^^^^^^

the last layer must be FC or POOL(average, global), it makes the class scores, not INPUT; append \
FC(10)
  INPUT(32x32x3)
  ^^^^^^^^^^^^^^

INPUT(5000x32x3): expected a width of 1 to 4,096, got 5,000
  INPUT(5000x32x3) -> FC(10)
  ^^^^^^^^^^^^^^^^

INPUT(32x0x3): expected a height of 1 to 4,096, got 0
  INPUT(32x0x3) -> FC(10)
  ^^^^^^^^^^^^^

INPUT: expected a volume of at most 268,435,456 values, got 4096x4096x17, 285,212,672
  INPUT(4096x4096x17) -> FC(10)
  ^^^^^^^^^^^^^^^^^^^

conv1: expected a volume of at most 268,435,456 values, got 32x32x1000000, 1,024,000,000
  INPUT(32x32x3) -> CONV(1000000, 3x3) -> FC(10)
                    ^^^^^^^^^^^^^^^^^^

expected at most 268,435,456 weights and biases, got 3,083,000,010, 3,072,000,000 of them in fc1
  INPUT(32x32x3) -> FC(1000000) -> FC(10)
                    ^^^^^^^^^^^

expected at most 1,000 layers, got 1,000,000,000 in this group; repeat it less often
  INPUT(32x32x3) -> [[[RELU]*1000]*1000]*1000 -> FC(10)
                    ^^^^^^^^^^^^^^^^^^^^^^^^^

expected at most 1,000 layers, got 1,201
  INPUT(32x32x3) -> [RELU]*600 -> [RELU]*600 -> FC(10)
  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
"""


@pytest.mark.parametrize("printed", ERRORS.rstrip().split("\n\n"))
def test_an_error_shows_the_place(printed: str) -> None:
    reason, line, _ = printed.split("\n")
    with pytest.raises(NotationError) as raised:
        parse(line[2:])
    assert str(raised.value) == printed
    assert raised.value.reason == reason


def test_the_page_shows_every_error() -> None:
    told = re.search(r"^## Errors\n.*?```\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert told
    assert told[1] == ERRORS


def test_nothing_is_an_error_of_one_line() -> None:
    for text in ("", " \n "):
        with pytest.raises(NotationError) as raised:
            parse(text)
        assert str(raised.value) == f"expected an architecture such as {EXAMPLE}, got nothing"


def test_an_error_in_long_notation_shows_the_part_around_it() -> None:
    layers = " -> CONV(3, 3x3)" * 20
    with pytest.raises(NotationError) as raised:
        parse(f"INPUT(32x32x3){layers} -> POOL(min, 2x2){layers} -> FC(10)")
    assert str(raised.value) == (
        "POOL: expected max, average, l2 or distance, got min\n"
        "  ... CONV(3, 3x3) -> CONV(3, 3x3) -> POOL(min, 2x2) -> CONV(3, 3x3) -> CON...\n"
        "                                           ^^^"
    )


def test_an_error_in_several_lines_shows_its_line() -> None:
    with pytest.raises(NotationError) as raised:
        parse("INPUT(32x32x3)\n\t-> CONV(12, 3x3)\n\t-> POOL(min, 2x2)\n\t-> FC(10)")
    _, line, carets = str(raised.value).split("\n")
    assert line == "   -> POOL(min, 2x2)"
    assert line[carets.index("^") :].startswith("min, 2x2")
    assert carets.count("^") == 3


def test_what_an_error_quotes_is_short_and_printable() -> None:
    for text, quoted in (
        ("DENSE" * 100, "DENSE" * 6 + "..."),
        ("\x1b[31m", "'\\x1b'"),
        ("3 x\n3", "3 x 3"),
    ):
        with pytest.raises(NotationError) as raised:
            parse(f"INPUT(8x8x3) -> {text}")
        assert raised.value.reason == (
            f"expected CONV, RELU, POOL, FC or a group [...], got {quoted}"
        )
        assert str(raised.value).replace("\n", "").isprintable()


def test_notation_without_end_is_refused_before_it_is_read() -> None:
    with pytest.raises(NotationError, match="at most 10,000 characters, got 10,001"):
        parse("[" * 10_001)


def test_repetitions_of_nothing_take_no_time() -> None:
    nothing = "[[[[RELU]*0]*9999999]*9999999]*9999999"
    assert len(parse(f"INPUT(8x8x3) -> {nothing} -> FC(10)").layers) == 1
