import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from support.tiny_models import LABELS, activations, random_images, tiny_model

from convscope_server.backend import Volume
from convscope_server.errors import ModelError
from convscope_server.model_file import ModelFile


def test_all_that_the_file_tells_is_read() -> None:
    info = ModelFile(tiny_model()).info
    assert (info.input_name, info.height, info.width) == ("images", 4, 4)
    assert info.labels == LABELS
    assert [layer.name for layer in info.layers] == ["conv1", "relu1", "pool1", "fc1"]
    assert info.layers[2].volume == Volume(2, 2, 2)
    assert (info.layers[3].tensor, info.layers[3].rank) == ("scores", 2)
    assert info.parameter_count == 6 + 2 + 24 + 3
    assert info.multiply_add_count == 96 + 24
    assert info.accuracy == 0.25


def test_a_file_without_metadata_has_indices_for_labels_and_tensors_for_layers() -> None:
    info = ModelFile(tiny_model(metadata=False)).info
    assert info.labels == ("0", "1", "2")
    assert {"conv1", "relu1", "pool1", "scores"} <= {layer.name for layer in info.layers}
    assert info.parameter_count == 6 + 2 + 24 + 3


def test_tapped_tensors_become_outputs_and_hold_the_right_values() -> None:
    images = random_images(2)
    data = ModelFile(tiny_model()).serialize(("conv1", "pool1"))
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["scores", "probabilities", "conv1", "pool1"]
    for name, value in zip(names, session.run(None, {"images": images}), strict=True):
        np.testing.assert_allclose(value, activations(images)[name], rtol=1e-6, atol=1e-30)


def external_data(model: onnx.ModelProto) -> None:
    weights = model.graph.initializer[0]
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[2].domain = "evil"


def integer_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def no_batch_dimension(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[0]


def four_channels(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 4


def nothing_high(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0


def free_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "H"


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))


def no_scores(model: onnx.ModelProto) -> None:
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info("conv1", TensorProto.FLOAT, ["N", 2, 4, 4])
    )


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 6


def computed_twice(model: onnx.ModelProto) -> None:
    model.graph.node[3].output[0] = "conv1"


def sparse_weights(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add()


def constants_elsewhere(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="lists")
    attribute.tensors.add().external_data.add(key="location", value="/etc/passwd")


def sub_graph(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="body").g.name = "loop"


def gigantic_tensor(model: onnx.ModelProto) -> None:
    model.graph.value_info[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def too_many_nodes(model: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["conv1"], ["more"])
    model.graph.node.extend([node] * 100_000)


def nested_metadata(model: onnx.ModelProto) -> None:
    set_metadata(model, "labels", "[" * 100_000)


def accuracy_in_words(model: onnx.ModelProto) -> None:
    set_metadata(model, "accuracy", '{"top1": "high"}')


def std_of_zero(model: onnx.ModelProto) -> None:
    set_metadata(model, "normalization", '{"mean": [0, 0, 0], "std": [1, 0, 1]}')


def mean_of_one_channel(model: onnx.ModelProto) -> None:
    set_metadata(model, "normalization", '{"mean": [0], "std": [1, 1, 1]}')


def one_name_twice(model: onnx.ModelProto) -> None:
    entry = {"name": "x", "kind": "CONV", "tensor": "conv1"}
    set_metadata(model, "layers", json.dumps([entry, entry]))


def weights_below_zero(model: onnx.ModelProto) -> None:
    entry = {"name": "x", "kind": "CONV", "tensor": "conv1", "weights": -1}
    set_metadata(model, "layers", json.dumps([entry]))


def too_few_labels(model: onnx.ModelProto) -> None:
    set_metadata(model, "labels", json.dumps(["red"]))


def broken_metadata(model: onnx.ModelProto) -> None:
    set_metadata(model, "layers", "[{")


def labels_of_another_kind(model: onnx.ModelProto) -> None:
    set_metadata(model, "labels", json.dumps({"0": "red"}))


def unknown_layer_tensor(model: onnx.ModelProto) -> None:
    set_metadata(model, "layers", json.dumps([{"name": "x", "kind": "CONV", "tensor": "gone"}]))


def layer_without_a_name(model: onnx.ModelProto) -> None:
    set_metadata(model, "layers", json.dumps([{"kind": "CONV", "tensor": "conv1"}]))


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    (entry,) = [entry for entry in model.metadata_props if entry.key == f"convscope.{key}"]
    entry.value = value


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (external_data, "external data"),
        (custom_operator, "evil::Conv"),
        (integer_input, r"images as uint8, float or float16.* got int64 \(\?, 4, 4, 3\)"),
        (no_batch_dimension, r"expected images .* got uint8 \(4, 4, 3\)"),
        (four_channels, r"with C of 1 or 3, got uint8 \(\?, 4, 4, 4\)"),
        (nothing_high, "H and W fixed, got"),
        (old_opset, "opset 7 or newer, got 6"),
        (computed_twice, "computed once, got conv1 2 times"),
        (sparse_weights, "no sparse initializers"),
        (constants_elsewhere, "external data"),
        (sub_graph, "expected no sub-graphs, got one in Transpose"),
        (gigantic_tensor, "tensor conv1: expected at most 1073741824 elements"),
        (too_many_nodes, "expected at most 20000 nodes, got 100008"),
        (nested_metadata, "convscope.labels: expected JSON"),
        (accuracy_in_words, "convscope.accuracy: expected top1 as a number"),
        (std_of_zero, "expected std above 0"),
        (mean_of_one_channel, "expected mean as a list of 3 numbers"),
        (one_name_twice, "every name once"),
        (weights_below_zero, "expected counts as numbers"),
        (free_height, "H and W fixed"),
        (second_input, "one graph input without a default, got 2: images, mask: give the others"),
        (no_scores, r"an output of class scores, float \(N, K\), got conv1 \(\?, 2, 4, 4\)"),
        (too_few_labels, "expected 3 labels, one a class, got 1"),
        (broken_metadata, "convscope.layers: expected JSON"),
        (labels_of_another_kind, "convscope.labels: expected a list"),
        (unknown_layer_tensor, "layer x: expected a float32 tensor gone"),
        (layer_without_a_name, "lacks 'name'"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_in_one_line(
    spoil: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = tiny_model()
    spoil(model)
    with pytest.raises(ModelError, match=message) as info:
        ModelFile(model)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("data", [b"", b"not onnx at all", b"\x08\x0a"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="expected an ONNX model"):
        ModelFile.from_bytes(data)


def test_a_truncated_file_is_refused_and_its_folder_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model().SerializeToString()[:-100])
    with pytest.raises(ModelError, match=r"^model\.onnx: expected an ONNX model") as info:
        ModelFile.load(path)
    assert str(tmp_path) not in str(info.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be read: No such file"):
        ModelFile.load(tmp_path / "model.onnx")
