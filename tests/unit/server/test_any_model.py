"""Foreign models compute what the ONNX reference does: scores, and every layer there is."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator
from support.foreign_models import F32, MODELS, Graph, residual

from convscope_server.backend import ModelInfo
from convscope_server.errors import BackendFailure
from convscope_server.feature_maps import MapPlan, MapRequest
from convscope_server.model_file import ModelFile
from convscope_server.ort_backend import OrtBackend

# Layers of (N, H, W, C) tensors, by model.
CHANNELS_LAST = {
    "channels_last": {"transpose_2", "relu_3", "add_4", "transpose_7", "relu_8", "mul_9"}
}


def assert_close(actual: Any, expected: Any, **tolerance: Any) -> None:
    np.testing.assert_allclose(actual, expected, **tolerance)


def backend_of(file: ModelFile, max_batch_size: int = 8) -> OrtBackend:
    return OrtBackend(file, device="cpu", max_batch_size=max_batch_size, thread_count=1)


def pixels(info: ModelInfo, rows: int) -> npt.NDArray[np.uint8]:
    shape = (rows, info.height, info.width, info.channels)
    return np.random.default_rng(rows).integers(0, 256, shape, dtype=np.uint8)


def own_input(model: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """What the model's own input takes, from pixels: by numpy."""
    value = model.graph.input[0]
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    array = images if dtype == np.uint8 else (images / 255).astype(np.float32).astype(dtype)
    last = value.type.tensor_type.shape.dim[3].dim_value
    return array if last == images.shape[3] else array.transpose(0, 3, 1, 2)


def reference(
    model: onnx.ModelProto, names: list[str], images: npt.NDArray[np.uint8]
) -> dict[str, npt.NDArray[Any]]:
    """Tensors of the model as the ONNX reference computes them."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    tapped.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    name = model.graph.input[0].name
    values = ReferenceEvaluator(tapped).run(None, {name: own_input(model, images)})
    return dict(zip(names, values, strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_scores_and_every_layer_are_those_of_the_onnx_reference(name: str, rows: int) -> None:
    model = MODELS[name]()
    file = ModelFile(model)
    info = file.info
    if info.batch_size and rows > info.batch_size:
        return
    tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    if name == "half_precision":
        tolerance = {"rtol": 2e-2, "atol": 2e-3}
    images = pixels(info, rows)
    tensors = tuple(layer.tensor for layer in info.layers)
    session = backend_of(file).build_session(tensors)

    scores, probabilities, *maps = session.run(images)

    names = [layer.name for layer in info.layers]
    expected = reference(model, names, images)
    for layer, values in zip(info.layers, maps, strict=True):
        truth = expected[layer.name].astype(np.float32)
        if layer.name in CHANNELS_LAST.get(name, ()):
            truth = truth.transpose(0, 3, 1, 2)
        assert values.dtype == np.float32
        volume = layer.volume
        sizes = (volume.depth, volume.height, volume.width)
        assert values.shape == (rows, *(sizes if layer.rank == 4 else sizes[:1])), layer.name
        assert_close(values, truth, err_msg=layer.name, **tolerance)
    assert scores.shape == probabilities.shape == (rows, 5)
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert_close(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), **tolerance)
    (output,) = [
        value.name
        for value in model.graph.output
        if value.name not in ("mask", "auxiliary")  # the main head, by its own name
    ]
    truth = reference(model, [output], images)[output].reshape(rows, 5).astype(np.float32)
    is_softmax = next(n for n in model.graph.node if output in n.output).op_type == "Softmax"
    assert_close(probabilities if is_softmax else scores, truth, **tolerance)
    # Without taps, the same.
    lean_scores, lean_probabilities = backend_of(file).build_session(()).run(images)
    assert_close(lean_scores, scores, **tolerance)
    assert_close(lean_probabilities, probabilities, **tolerance)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("residual", {"conv_0", "relu_1", "batchnormalization_3", "add_4", "logits"}),
        ("convolution_variants", {"up", "pooled", "both", "clip", "sigmoid"}),
        ("channels_last", CHANNELS_LAST["channels_last"] | {"conv_1", "reducemean_10"}),
        ("grey", {"tanh_1", "globalmaxpool_3"}),
        ("unsigned_channels_first", {"cast*", "/features/0/[relu]?", "übergang:0"}),
        ("several_inputs_and_outputs", {"mask", "auxiliary", "logits"}),
        ("channel_shuffle", {"conv_0", "after"}),
    ],
)
def test_the_layers_of_a_graph_are_found(name: str, layers: set[str]) -> None:
    found = {layer.name for layer in ModelFile(MODELS[name]()).info.layers}
    assert layers <= found
    assert "shuffled" not in found  # whose axes nobody knows


def test_floats_go_in_untouched() -> None:
    model = residual()
    file = ModelFile(model)
    assert file.info.native is not None
    assert (file.info.native.name, file.info.native.dtype) == ("input", "float32")
    images = pixels(file.info, 3)
    native = backend_of(file).build_session(("relu_1",), native=True)
    plain = backend_of(file).build_session(("relu_1",))
    for own, usual in zip(native.run(own_input(model, images)), plain.run(images), strict=True):
        assert_close(own, usual, rtol=1e-4, atol=1e-5)


def test_a_normalisation_that_the_file_tells_is_applied() -> None:
    model = residual()
    told = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}
    model.metadata_props.add(key="convscope.normalization", value=json.dumps(told))
    file = ModelFile(model)
    assert not file.notes
    images = pixels(file.info, 2)
    (scores, _) = backend_of(file).build_session(()).run(images)
    normalised = (images / 255 - np.array(told["mean"])) / np.array(told["std"])
    own = normalised.astype(np.float32).transpose(0, 3, 1, 2)
    (truth,) = ReferenceEvaluator(model).run(None, {"input": own})
    assert_close(scores, truth, rtol=1e-4, atol=1e-5)


def test_what_had_to_be_assumed_is_noted() -> None:
    (note,) = ModelFile(residual()).notes
    assert "divided by 255" in note
    notes = ModelFile(MODELS["several_inputs_and_outputs"]()).notes
    assert "of 2 outputs of class scores, logits is taken" in notes


def test_height_and_width_may_be_told_where_the_graph_leaves_them_free() -> None:
    g = Graph()
    x = g.add("Relu", g.conv("input", 3, 4))
    model = g.model([("input", F32, ["N", 3, "H", "W"])], [(g.head(x, 4), F32, ["N", 5])])
    model.metadata_props.add(key="convscope.input", value='{"height": 10, "width": 6}')
    info = ModelFile(model).info
    assert (info.height, info.width) == (10, 6)
    assert {layer.name: layer.volume.width for layer in info.layers}["relu_1"] == 6


def test_the_layout_may_be_told_where_it_could_be_either() -> None:
    g = Graph()
    first = g.add("Transpose", "input", perm=[0, 3, 1, 2])
    x = g.conv(first, 3, 4)
    model = g.model([("input", F32, ["N", 3, 3, 3])], [(g.head(x, 4), F32, ["N", 5])])
    untold = ModelFile(model).info.native
    assert untold is not None  # (N, C, H, W), as it is for floats
    model.metadata_props.add(key="convscope.input", value='{"layout": "NHWC"}')
    images = pixels(ModelFile(model).info, 2)
    (scores, _) = backend_of(ModelFile(model)).build_session(()).run(images)
    (truth,) = ReferenceEvaluator(model).run(None, {"input": (images / 255).astype(np.float32)})
    assert_close(scores, truth, rtol=1e-4, atol=1e-5)


def test_a_fixed_batch_bounds_the_batches() -> None:
    file = ModelFile(MODELS["fixed_batch_4"]())
    assert backend_of(file, max_batch_size=64).max_batch_size == 4
    assert backend_of(file, max_batch_size=2).max_batch_size == 2


def test_an_exact_name_beats_a_pattern() -> None:
    info = ModelFile(MODELS["unsigned_channels_first"]()).info
    for wish, expected in (
        ("cast*", ["cast*"]),
        ("/features/0/[relu]?", ["/features/0/[relu]?"]),
        ("*gang*", ["übergang:0"]),
    ):
        plan = MapPlan([MapRequest((wish,))], info)
        assert [layer.name for layer, _ in plan.items] == expected


def test_a_model_that_tells_more_than_it_computes_is_refused_when_warmed() -> None:
    model = residual()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7  # it computes five
    with pytest.raises((BackendFailure, Exception), match=r"expected scores as float32|mismatch"):
        backend_of(ModelFile(model)).build_session(())


def test_a_model_that_fails_only_when_run_is_refused_when_warmed() -> None:
    g = Graph()
    x = g.conv("input", 3, 4)
    scores = g.add("Reshape", x, g.constant(np.array([-1, 5])))  # of 256 numbers an image
    graph = helper.make_graph(
        g.nodes,
        "failing",
        [helper.make_tensor_value_info("input", F32, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(scores, F32, ["N", 5])],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(BackendFailure, match="ONNX Runtime failed") as info:
        backend_of(ModelFile(model)).build_session(())
    assert "\n" not in str(info.value)
    assert "onnxruntime_src" not in str(info.value)
