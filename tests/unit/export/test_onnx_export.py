from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.tiny_cifar import SMALL

from convscope_export.architecture import Architecture
from convscope_export.layers import Conv, FullyConnected, Pool, Relu, Repeat, Volume
from convscope_export.network import Network
from convscope_export.notation import parse
from convscope_export.onnx_export import OPSET, ConversionError, convert
from convscope_export.onnx_runtime import Session
from convscope_export.verification import pictures, torch_reference, with_taps

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

DEEP = Architecture(
    Volume(depth=3, height=12, width=16),
    (
        Repeat((Repeat((Conv(16, 3), Relu()), 2), Pool("max", 2))),
        Repeat((Conv(16, 3), Relu(), Pool("average", 2))),
        Repeat((FullyConnected(20), Relu())),
        FullyConnected(5),
    ),
)


def network_of(architecture: Architecture) -> Network:
    torch.manual_seed(0)
    return Network(architecture).eval()


def dims(info: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def small() -> onnx.ModelProto:
    return convert(network_of(SMALL), MEAN, STD)


@pytest.fixture(scope="module")
def deep() -> onnx.ModelProto:
    return convert(network_of(DEEP), MEAN, STD)


def test_graph_is_the_one_of_the_contract(small: onnx.ModelProto) -> None:
    graph = small.graph
    assert [(value.name, dims(value)) for value in graph.input] == [("images", ["N", 8, 8, 3])]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [(value.name, dims(value)) for value in graph.output] == [
        ("scores", ["N", 10]),
        ("probabilities", ["N", 10]),
    ]
    inner = {value.name: dims(value) for value in graph.value_info}
    assert list(inner)[:3] == ["conv1", "relu1", "pool1"]
    assert inner["conv1"] == inner["relu1"] == ["N", 4, 8, 8]
    assert inner["pool1"] == ["N", 4, 4, 4]
    assert [(opset.domain, opset.version) for opset in small.opset_import] == [("", OPSET)]
    onnx.checker.check_model(small, full_check=True)


def test_graph_holds_what_is_needed_and_no_more(small: onnx.ModelProto) -> None:
    assert [node.op_type for node in small.graph.node] == [
        *("Transpose", "Cast", "Mul", "Add"),
        *("Conv", "Relu", "MaxPool", "Reshape", "Gemm", "Softmax"),
    ]
    # Moved as bytes: the cast comes after.
    assert list(small.graph.node[0].input) == ["images"]
    weights = {initializer.name for initializer in small.graph.initializer}
    assert {"conv1.weight", "conv1.bias", "fc1.weight", "fc1.bias"} <= weights


def test_nothing_of_the_machine_that_exported_is_in_the_file(small: onnx.ModelProto) -> None:
    contents = small.SerializeToString()
    for text in (b"convscope_export", b"site-packages", b"network.", b".py", b"stack_trace"):
        assert text not in contents


def test_a_deeper_network_keeps_every_name(deep: onnx.ModelProto) -> None:
    inner = {value.name: dims(value) for value in deep.graph.value_info}
    expected = {
        **{name: ["N", 16, 12, 16] for name in ("conv1_1", "relu1_1", "conv1_2", "relu1_2")},
        **{"pool1": ["N", 16, 6, 8], "conv2": ["N", 16, 6, 8], "relu2": ["N", 16, 6, 8]},
        **{"pool2": ["N", 16, 3, 4], "fc1": ["N", 20], "relu_fc1": ["N", 20]},
    }
    assert {name: inner[name] for name in expected} == expected
    assert dims(deep.graph.output[0]) == ["N", 5]


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_every_tap_of_a_deeper_network_is_what_torch_computes(
    deep: onnx.ModelProto, batch: int
) -> None:
    images = pictures(batch, 12, 16, 3)
    expected = torch_reference(network_of(DEEP), MEAN, STD)(images)
    taps = [name for name in expected if name not in ("scores", "probabilities")]
    session = Session(with_taps(deep, taps).SerializeToString())
    for name, value in session.run(list(expected), {"images": images}).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


POOLS = {
    "max": ["MaxPool"],
    "average": ["AveragePool"],
    # Not LpPool: CUDA has no kernel for it.
    "l2": ["Mul", "AveragePool", "Mul", "Sqrt"],
    "distance": ["Conv"],
}


def with_pool(method: str, size: str = "2x2") -> onnx.ModelProto:
    text = f"INPUT(16x16x3) -> CONV(16, 3x3) -> RELU -> POOL({method}, {size}) -> FC(5)"
    return convert(network_of(parse(text)), MEAN, STD)


@pytest.mark.parametrize("method", POOLS)
def test_every_pool_is_exported_as_operators_that_cuda_has(method: str) -> None:
    operators = [node.op_type for node in with_pool(method).graph.node]
    assert operators[4:-3] == ["Conv", "Relu", *POOLS[method]]


@pytest.mark.parametrize("method", POOLS)
def test_convolution_and_relu_fuse_before_every_pool(method: str, tmp_path: Path) -> None:
    path = tmp_path / "optimized.onnx"
    Session(with_pool(method).SerializeToString(), str(path))
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "Relu" not in operators
    assert "LpPool" not in operators


@pytest.mark.parametrize(
    "layers",
    [
        *(f"POOL({method}, 2x2)" for method in POOLS),
        *(f"POOL({method}, 3x3, stride 1)" for method in POOLS),
        *(f"CONV(8, 3x3) -> RELU -> POOL({method}, 4x4, stride 2)" for method in POOLS),
        "POOL(average, global)",
        "CONV(8, 6x6, stride 2, padding 2) -> RELU",
        "CONV(8, 3x3, padding none)",
        "RELU",
        "FC(20) -> RELU",
        "[CONV(4, 3x3) -> RELU -> POOL(l2, 2x2)?]*6",
        "[FC(3)]*0",
    ],
)
def test_every_layer_computes_what_torch_does(layers: str) -> None:
    network = network_of(parse(f"INPUT(24x16x3) -> {layers} -> FC(5)"))
    images = pictures(3, 16, 24, 3)
    expected = torch_reference(network, MEAN, STD)(images)
    taps = [name for name in expected if name not in ("scores", "probabilities")]
    session = Session(with_taps(convert(network, MEAN, STD), taps).SerializeToString())
    found = session.run(list(expected), {"images": images})
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, rtol=1e-4, err_msg=name)


def test_a_head_by_global_average_makes_the_scores() -> None:
    network = network_of(parse("INPUT(8x8x3) -> CONV(10, 3x3) -> POOL(average, global)"))
    model = convert(network, MEAN, STD)
    assert [node.op_type for node in model.graph.node][-3:] == ["AveragePool", "Reshape", "Softmax"]
    assert dims(model.graph.output[0]) == ["N", 10]
    images = pictures(2, 8, 8, 3)
    expected = torch_reference(network, MEAN, STD)(images)["scores"]
    found = Session(model.SerializeToString()).run(["scores"], {"images": images})["scores"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_convolution_and_relu_fuse_where_nothing_is_tapped(
    small: onnx.ModelProto, tmp_path: Path
) -> None:
    def optimized(model: onnx.ModelProto) -> list[onnx.NodeProto]:
        path = tmp_path / "optimized.onnx"
        Session(model.SerializeToString(), str(path))
        return list(onnx.load(path).graph.node)

    lean = optimized(small)
    assert "Relu" not in [node.op_type for node in lean]
    (conv,) = (node for node in lean if node.op_type in ("Conv", "FusedConv"))
    assert b"Relu" in [attribute.s for attribute in conv.attribute]
    # A tap after the ReLU keeps that, one before it does not.
    assert "Relu" not in [node.op_type for node in optimized(with_taps(small, ["relu1"]))]
    assert "Relu" in [node.op_type for node in optimized(with_taps(small, ["conv1"]))]


def test_the_same_weights_make_the_same_bytes(small: onnx.ModelProto) -> None:
    again = convert(network_of(SMALL), MEAN, STD)
    assert again.SerializeToString(deterministic=True) == small.SerializeToString(
        deterministic=True
    )


def test_the_exporter_keeps_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    convert(network_of(SMALL), MEAN, STD)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_cannot_be_exported_is_a_one_line_error() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    network = network_of(SMALL)
    network.relu1 = Odd()
    with pytest.raises(ConversionError, match=r"^torch .* cannot export INPUT\(8x8x3\)[^\n]*$"):
        convert(network, MEAN, STD)
