"""Whatever the architecture: it is printed and read back, and torch agrees on every volume."""

from typing import get_args

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convscope_export.architecture import Architecture
from convscope_export.layers import (
    Conv,
    FullyConnected,
    GlobalAveragePool,
    Layer,
    Pool,
    PoolMethod,
    Relu,
    Repeat,
    Volume,
)
from convscope_export.network import Network
from convscope_export.notation import NotationError, parse

SIDES = st.integers(1, 24)


def fitting_strides(span: int) -> list[int]:
    return [stride for stride in range(1, 6) if span % stride == 0]


@st.composite
def conv(draw: st.DrawFn, volume: Volume) -> Conv:
    """A CONV that fits; its padding written out or not."""
    filters = draw(st.integers(1, 4))
    if draw(st.booleans()):
        return Conv(filters, draw(st.sampled_from([1, 3, 5])))
    padding = draw(st.integers(0, 3))
    size = draw(st.integers(1, min(volume.width, volume.height, 7) + 2 * padding))
    spans = [side - size + 2 * padding for side in (volume.width, volume.height)]
    strides = set(fitting_strides(spans[0])) & set(fitting_strides(spans[1]))
    return Conv(filters, size, draw(st.sampled_from(sorted(strides))), padding)


@st.composite
def pool(draw: st.DrawFn, volume: Volume) -> Pool:
    """A POOL that fits, or an optional one that may not."""
    method: PoolMethod = draw(st.sampled_from(get_args(PoolMethod)))
    if draw(st.booleans()):
        stride = draw(st.none() | st.integers(1, 4))
        return Pool(method, draw(st.integers(1, 30)), stride, optional=True)
    size = draw(st.integers(1, min(volume.width, volume.height)))
    strides = set(fitting_strides(volume.width - size)) & set(fitting_strides(volume.height - size))
    return Pool(method, size, draw(st.sampled_from(sorted(strides))))


@st.composite
def keeping_size(draw: st.DrawFn, depth: int = 0) -> Layer | Repeat:
    """A layer that fits anywhere but after FC, or a group of such."""
    layer = st.one_of(
        st.builds(Conv, st.integers(1, 4), st.sampled_from([1, 3, 5])), st.just(Relu())
    )
    if depth == 2 or draw(st.booleans()):
        return draw(layer)
    items = draw(st.lists(keeping_size(depth + 1), min_size=1, max_size=3))
    return Repeat(tuple(items), draw(st.integers(0, 3)))


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    volume = Volume(draw(st.integers(1, 4)), draw(SIDES), draw(SIDES))
    items: list[Layer | Repeat] = []
    current = volume
    for kind in draw(st.lists(st.sampled_from(["conv", "pool", "group"]), max_size=5)):
        strategy = {"conv": conv(current), "pool": pool(current), "group": keeping_size()}[kind]
        items.append(draw(strategy))  # type: ignore[arg-type]
        current = Architecture(volume, (*items, FullyConnected(1))).layers[-1].input
    if draw(st.booleans()):
        return Architecture(volume, (*items, GlobalAveragePool()))
    hidden = Repeat((FullyConnected(draw(st.integers(1, 5))), Relu()), draw(st.integers(0, 2)))
    return Architecture(volume, (*items, hidden, FullyConnected(draw(st.integers(1, 5)))))


@given(architectures())
def test_what_is_printed_is_read_back(architecture: Architecture) -> None:
    text = str(architecture)
    assert parse(text) == architecture
    assert str(parse(text)) == text


@given(architectures(), st.data())
def test_white_space_and_case_do_not_matter(
    architecture: Architecture, data: st.DataObject
) -> None:
    text = str(architecture)
    for mark in ("->", "(", ")", ",", "[", "]", "*", "x"):
        space = data.draw(st.sampled_from(["", " ", "\n", "\t "]), label=mark)
        text = text.replace(mark, f"{space}{mark}{space}") if mark != "x" else text
    assert parse(text.lower()) == architecture


@settings(max_examples=50, deadline=None)
@given(architectures())
def test_volumes_and_parameters_are_those_of_torch(architecture: Architecture) -> None:
    network = Network(architecture).eval()
    entry = architecture.input
    with torch.inference_mode():
        found = network.activations(torch.zeros(1, entry.depth, entry.height, entry.width))
    for placed in architecture.layers:
        volume = placed.volume
        shape = tuple(found[placed.name].shape)
        assert shape in ((1, volume.depth, volume.height, volume.width), (1, volume.values))
        module = network.get_submodule(placed.name)
        assert sum(p.numel() for p in module.parameters()) == placed.weights + placed.biases


PIECES = st.sampled_from(
    [
        *("INPUT(8x8x3)", "->", "CONV", "CONV(2, 3x3)", "POOL(max, 2x2)", "?", "FC(2)", "FC"),
        *("RELU", "[", "]", "*", "2", "(", ")", ",", "3x3", "stride", "N", "×", "\n", "é", " "),
    ]
)


@given(st.text() | st.lists(PIECES).map(" ".join) | st.lists(PIECES).map("".join))
def test_any_text_is_an_architecture_or_an_error_with_a_place(text: str) -> None:
    found: Architecture | NotationError
    try:
        found = parse(text)
    except NotationError as error:
        found = error
    if isinstance(found, NotationError):
        assert 0 <= found.start <= min(found.end, len(text))
        assert "\n" not in found.reason
    else:
        assert parse(str(found)) == found
