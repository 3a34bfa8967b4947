from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.tiny_cifar import SMALL

from convscope_export.architecture import Architecture
from convscope_export.layers import Conv, FullyConnected, Pool, Relu, Repeat, Volume
from convscope_export.network import Network
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
