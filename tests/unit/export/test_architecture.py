import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope_export.architecture import Architecture
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
from convscope_export.presets import SIMPLE

CIFAR = Volume(depth=3, height=32, width=32)


def names(*items: Layer | Repeat) -> list[str]:
    return [layer.name for layer in Architecture(CIFAR, items).layers]


def vgg_block(filters: int, convs: int) -> Repeat:
    return Repeat((Repeat((Conv(filters, 3), Relu()), convs), Pool("max", 2)))


def test_simple_has_the_volumes_and_counts_of_the_course() -> None:
    # By hand: 3*3*3*12 weights used at 32*32 places; 16*16*12 values times 10 classes.
    assert [
        (layer.name, str(layer.volume), layer.weights, layer.biases, layer.multiply_adds)
        for layer in SIMPLE.architecture.layers
    ] == [
        ("conv1", "32x32x12", 324, 12, 331_776),
        ("relu1", "32x32x12", 0, 0, 0),
        ("pool1", "16x16x12", 0, 0, 0),
        ("fc1", "1x1x10", 30_720, 10, 30_720),
    ]
    assert SIMPLE.architecture.parameters == 31_066
    assert SIMPLE.architecture.multiply_adds == 362_496
    assert SIMPLE.architecture.classes == 10


def test_simple_prints_itself_in_notation() -> None:
    assert str(SIMPLE.architecture) == (
        "INPUT(32x32x3) -> [[CONV(12, 3x3) -> RELU]*1 -> POOL(max, 2x2)]*1 -> FC(10)"
    )


def test_settings_that_are_not_the_default_are_printed() -> None:
    layers = (Conv(8, 5, stride=3, padding=1), Pool("average", 3, stride=1), FullyConnected(4))
    assert str(Architecture(Volume(1, 27, 21), layers)) == (
        "INPUT(21x27x1) -> CONV(8, 5x5, stride 3, padding 1) -> POOL(average, 3x3, stride 1) "
        "-> FC(4)"
    )


def test_rectangular_input_keeps_height_and_width_apart() -> None:
    architecture = Architecture(Volume(3, 8, 16), (Pool("max", 2), FullyConnected(2)))
    pool = architecture.layers[0]
    assert (pool.volume.height, pool.volume.width) == (4, 8)
    assert architecture.layers[1].weights == 3 * 4 * 8 * 2


def test_blocks_with_several_convolutions_number_them() -> None:
    assert names(vgg_block(8, 2), vgg_block(16, 1), vgg_block(16, 3), FullyConnected(10)) == [
        *("conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"),
        *("conv2", "relu2", "pool2"),
        *("conv3_1", "relu3_1", "conv3_2", "relu3_2", "conv3_3", "relu3_3", "pool3"),
        "fc1",
    ]


def test_repetitions_of_a_group_are_blocks() -> None:
    block = Repeat((Repeat((Conv(4, 3), Relu()), 2), Pool("max", 2)), 2)
    assert names(block, FullyConnected(10)) == [
        *("conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1"),
        *("conv2_1", "relu2_1", "conv2_2", "relu2_2", "pool2"),
        "fc1",
    ]


def test_bare_layers_and_a_hidden_fc_layer_are_named() -> None:
    assert names(
        *(Conv(4, 3), Relu(), Conv(4, 3), Relu(), Pool("max", 2)),
        Repeat((FullyConnected(20), Relu()), 2),
        FullyConnected(10),
    ) == [
        *("conv1", "relu1", "conv2", "relu2", "pool2"),
        *("fc1", "relu_fc1", "fc2", "relu_fc2", "fc3"),
    ]


LAYERS = st.sampled_from([Conv(2, 3), Conv(2, 1), Relu(), Pool("max", 2, stride=1)])
GROUPS = st.builds(
    Repeat,
    st.lists(LAYERS, min_size=1, max_size=4).map(tuple),
    st.integers(min_value=1, max_value=3),
)


@given(st.lists(st.one_of(LAYERS, GROUPS), max_size=5))
def test_names_are_unique_whatever_the_architecture(items: list[Layer | Repeat]) -> None:
    found = [
        layer.name for layer in Architecture(Volume(1, 99, 99), (*items, FullyConnected(3))).layers
    ]
    assert len(set(found)) == len(found)
    assert not set(found) & {"images", "scores", "probabilities"}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            (Conv(4, 3, stride=2, padding=0), FullyConnected(10)),
            r"conv1: CONV\(4, 3x3, stride 2, padding none\) does not fit its input 32x32x3: "
            r"\(W - F \+ 2P\)/S \+ 1 = \(32 - 3 \+ 2\*0\)/2 \+ 1 = 15\.5 is not whole",
        ),
        (
            (Pool("max", 33), FullyConnected(10)),
            r"pool1: POOL\(max, 33x33\) .* window 33x33 is larger than its input",
        ),
        ((Conv(4, 4), FullyConnected(10)), "conv1: .* an even filter, 4x4"),
        ((Conv(4, 3), Relu()), "last layer must be FC"),
        ((), "last layer must be FC"),
        ((FullyConnected(5), Conv(4, 1), FullyConnected(10)), "CONV.* cannot follow FC"),
    ],
)
def test_what_cannot_be_is_an_error_with_the_numbers(
    items: tuple[Layer | Repeat, ...], message: str
) -> None:
    with pytest.raises(ArchitectureError, match=message):
        Architecture(CIFAR, items)
