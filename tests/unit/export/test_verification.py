import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.tiny_cifar import SMALL, Recorder, tiny_data

from convscope_export import metadata as metadata_props
from convscope_export import model_file, run
from convscope_export.errors import ExportError
from convscope_export.graph_check import (
    DtypeError,
    DynamicAxisError,
    GraphError,
    InputError,
    OutputNameError,
    ShapeError,
    expected_tensors,
)
from convscope_export.network import Network
from convscope_export.onnx_export import convert
from convscope_export.onnx_runtime import RuntimeLoadError, RuntimeRunError
from convscope_export.presets import SIMPLE
from convscope_export.verification import (
    ATOL,
    RTOL,
    Float32Array,
    Reference,
    ToleranceError,
    UInt8Array,
    VerificationError,
    batches,
    pictures,
    summary,
    torch_reference,
    verify,
)

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Exported = tuple[onnx.ModelProto, dict[str, object], Network]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("run")
    run.train(SIMPLE, tiny_data(), directory, Recorder(), epochs=1)
    verified = model_file.build(directory)
    model = onnx.load_model_from_string(verified.contents)
    return model, verified.metadata, run.load(directory)[1]


@pytest.fixture
def model(exported: Exported) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(exported[0])
    return copy


@pytest.fixture(scope="module")
def metadata(exported: Exported) -> dict[str, object]:
    return exported[1]


@pytest.fixture(scope="module")
def reference(exported: Exported) -> Reference:
    return torch_reference(exported[2], MEAN, STD)


def failures(
    model: onnx.ModelProto, metadata: dict[str, object], reference: Reference | None = None
) -> list[ExportError]:
    with pytest.raises(VerificationError) as raised:
        verify(model, metadata, reference)
    assert "\n" not in str(raised.value)
    return list(raised.value.failures)


def node(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def test_a_sound_model_reports_every_tensor(
    model: onnx.ModelProto, metadata: dict[str, object], reference: Reference
) -> None:
    found = verify(model, metadata, reference)
    assert [(comparison.tensor, comparison.shape) for comparison in found] == [
        ("scores", (10,)),
        ("probabilities", (10,)),
        ("conv1", (12, 32, 32)),
        ("relu1", (12, 32, 32)),
        ("pool1", (12, 16, 16)),
    ]
    for comparison in found:
        assert comparison.max_abs_diff is not None
        assert 0 <= comparison.max_abs_diff < ATOL
    assert summary(metadata, found) == {
        "batches": [1, 2, 7],
        "atol": ATOL,
        "max_abs_diff": {comparison.tensor: comparison.max_abs_diff for comparison in found},
    }


def test_without_a_reference_the_layers_are_not_compared(
    model: onnx.ModelProto, metadata: dict[str, object]
) -> None:
    found = {comparison.tensor: comparison.max_abs_diff for comparison in verify(model, metadata)}
    assert found["conv1"] is None
    assert found["probabilities"] is not None
    assert found["probabilities"] < 1e-6


@pytest.mark.parametrize("parameter", ["conv1.bias", "fc1.weight", "shift"])
def test_a_planted_difference_is_found(
    model: onnx.ModelProto, metadata: dict[str, object], reference: Reference, parameter: str
) -> None:
    (initializer,) = (item for item in model.graph.initializer if item.name == parameter)
    values = onnx.numpy_helper.to_array(initializer).copy()
    values.flat[0] += 1e-2
    initializer.CopyFrom(onnx.numpy_helper.from_array(values, parameter))
    found = failures(model, metadata, reference)
    assert {type(failure) for failure in found} == {ToleranceError}
    named = {str(failure).split(":")[0] for failure in found}
    assert "scores" in named
    assert ("conv1" in named) == (parameter != "fc1.weight")
    # Without PyTorch nothing is wrong with it.
    verify(model, metadata)


def test_a_difference_of_one_tap_alone_is_found(
    model: onnx.ModelProto, metadata: dict[str, object], reference: Reference
) -> None:
    def off(images: UInt8Array) -> dict[str, Float32Array]:
        values = dict(reference(images))
        pool = values["pool1"].copy()
        pool[-1, 3, 2, 1] += 2 * ATOL
        return values | {"pool1": pool}

    (failure,) = failures(model, metadata, off)
    assert isinstance(failure, ToleranceError)
    assert str(failure).startswith("pool1: expected a difference of at most 0.0001 ")


def test_the_tolerance_grows_with_the_largest_value_of_a_tensor() -> None:
    torch.manual_seed(0)
    network = Network(SMALL).eval()
    with torch.no_grad():
        network.get_parameter("conv1.weight").mul_(1000)
    normalization = {"mean": MEAN, "std": STD}
    described = metadata_props.describe_untrained(network, "large", normalization, seed=0)
    model = convert(network, MEAN, STD)
    plain = torch_reference(network, MEAN, STD)

    def scaled(by: float) -> Reference:
        return lambda images: {
            name: value * np.float32(by) if name == "pool1" else value
            for name, value in plain(images).items()
        }

    comparisons = verify(model, described, scaled(1 + 0.7 * RTOL))
    (pool,) = (comparison for comparison in comparisons if comparison.tensor == "pool1")
    assert pool.max_abs_diff is not None
    assert pool.max_abs_diff > ATOL
    (failure,) = failures(model, described, scaled(1 + 2 * RTOL))
    assert isinstance(failure, ToleranceError)


def test_no_number_is_never_within_tolerance(
    model: onnx.ModelProto, metadata: dict[str, object], reference: Reference
) -> None:
    (initializer,) = (item for item in model.graph.initializer if item.name == "fc1.bias")
    values = onnx.numpy_helper.to_array(initializer).copy()
    values[4] = np.nan
    initializer.CopyFrom(onnx.numpy_helper.from_array(values, "fc1.bias"))
    found = failures(model, metadata, reference)
    assert [str(failure).split(":")[0] for failure in found] == ["scores", "probabilities"]
    assert "got nan" in str(found[0])


def rename_tap(model: onnx.ModelProto) -> None:
    node(model, "Conv").output[0] = "conv2d"
    node(model, "Relu").input[0] = "conv2d"


def forget_tap_shape(model: onnx.ModelProto) -> None:
    kept = [info for info in model.graph.value_info if info.name != "pool1"]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def fix_input_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def fix_tap_batch(model: onnx.ModelProto) -> None:
    model.graph.value_info[0].type.tensor_type.shape.dim[0].dim_value = 2


def wrong_tap_shape(model: onnx.ModelProto) -> None:
    model.graph.value_info[2].type.tensor_type.shape.dim[1].dim_value = 13


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[1].name = "softmax"
    node(model, "Softmax").output[0] = "softmax"


def extra_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.value_info[0])


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = node(model, "Transpose").input[0] = "input"


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def half_output(model: onnx.ModelProto) -> None:
    model.graph.value_info[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def custom_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))


def outside_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def cyclic(model: onnx.ModelProto) -> None:
    node(model, "Conv").input[0] = "pool1"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (rename_tap, OutputNameError, "tensor conv1: .*no such tensor"),
        (forget_tap_shape, OutputNameError, "tensor pool1: .*no declared shape"),
        (fix_input_batch, DynamicAxisError, "input images: expected the batch axis N, got 2"),
        (fix_tap_batch, DynamicAxisError, "tensor conv1: expected the batch axis N, got 2"),
        (wrong_tap_shape, ShapeError, r"pool1: expected \(N, 12, 16, 16\), got \(N, 13, 16, 16\)"),
        (rename_output, OutputNameError, "expected scores, probabilities, got scores, softmax"),
        (extra_output, OutputNameError, "got scores, probabilities, conv1"),
        (rename_input, InputError, "graph inputs: expected images, got input"),
        (float_input, InputError, "input images: expected uint8, got float"),
        (half_output, DtypeError, "tensor conv1: expected float32, got float16"),
        (custom_operator, GraphError, "expected only standard operators, got com.example"),
        (outside_weights, GraphError, "expected inside the file, got outside"),
        (cyclic, GraphError, "onnx.checker accepts, got"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_graph_that_breaks_the_contract_is_found(
    model: onnx.ModelProto,
    metadata: dict[str, object],
    change: Callable[[onnx.ModelProto], None],
    error: type[ExportError],
    message: str,
) -> None:
    change(model)
    found = [str(f) for f in failures(model, metadata) if isinstance(f, error)]
    assert any(re.search(message, text) for text in found), found


def test_a_batch_that_was_fixed_at_tracing_is_found(
    model: onnx.ModelProto, metadata: dict[str, object], reference: Reference
) -> None:
    # The shapes say N; the graph itself only works for batches of 2.
    (shape,) = (
        item for item in model.graph.initializer if item.name in node(model, "Reshape").input
    )
    fixed = np.array([2, 3072], np.int64)
    shape.CopyFrom(onnx.numpy_helper.from_array(fixed, shape.name))
    assert RuntimeRunError in {type(failure) for failure in failures(model, metadata, reference)}


def test_all_failures_are_told_at_once(
    model: onnx.ModelProto, metadata: dict[str, object], reference: Reference
) -> None:
    fix_tap_batch(model)
    forget_tap_shape(model)
    custom_operator(model)
    kinds = {type(failure) for failure in failures(model, metadata, reference)}
    assert {DynamicAxisError, OutputNameError, GraphError} <= kinds
    with pytest.raises(VerificationError, match=r"^\d+ checks failed: .*; .*; "):
        verify(model, metadata, reference)


def test_what_the_runtime_refuses_is_a_failure_like_the_others(
    model: onnx.ModelProto, metadata: dict[str, object]
) -> None:
    node(model, "Relu").op_type = "Rilu"
    kinds = {type(failure) for failure in failures(model, metadata)}
    assert {GraphError, RuntimeLoadError} <= kinds


def test_expected_tensors_are_flat_from_the_first_fc_layer_on() -> None:
    def layer(kind: str, name: str, depth: int, side: int) -> dict[str, object]:
        volume = {"depth": depth, "height": side, "width": side}
        return {"kind": kind, "name": name, "tensor": name, "volume": volume}

    layers = [
        layer("CONV", "conv1", 7, 1),
        layer("FC", "fc1", 5, 1),
        layer("RELU", "relu_fc1", 5, 1),
        layer("FC", "scores", 2, 1),
    ]
    assert expected_tensors({"labels": ["a", "b"], "layers": layers}) == {
        **{"scores": (2,), "probabilities": (2,)},
        **{"conv1": (7, 1, 1), "fc1": (5,), "relu_fc1": (5,)},
    }


def test_test_pictures_are_always_the_same_and_not_all_alike() -> None:
    images = pictures(7, 4, 6, 3)
    assert images.dtype == np.uint8
    assert images.shape == (7, 4, 6, 3)
    assert np.array_equal(images, pictures(7, 4, 6, 3))
    assert (images[1].min(), images[1].max(), images[2].min()) == (0, 0, 255)
    assert images[3, 0, :, 0].tolist() == [0, 51, 102, 153, 204, 255]
    assert len(np.unique(images[0])) > 20


def test_the_reference_normalises_as_the_training_does(exported: Exported) -> None:
    images = pictures(2, 32, 32, 3)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = exported[2](x).numpy()
    found = torch_reference(exported[2], MEAN, STD)(images)
    np.testing.assert_allclose(found["scores"], expected, atol=1e-6)
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-6)


def test_a_model_file_that_is_verified_later_needs_its_metadata(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert model_file.check(path).metadata["name"] == "simple"
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        metadata_props.MetadataError, match=r"convscope\.format is missing \(0 of 17"
    ):
        model_file.check(path)


def test_a_network_of_huge_volumes_is_checked_with_fewer_pictures(
    metadata: dict[str, object],
) -> None:
    def of(side: int) -> tuple[int, ...]:
        return batches({"layers": [{"volume": {"depth": 64, "height": side, "width": side}}]})

    assert batches(metadata) == (1, 2, 7)
    # 64 * 774^2 * 4 bytes * 7 is the last below 1 GiB.
    assert of(774) == (1, 2, 7)
    assert of(775) == (1, 2, 3)
