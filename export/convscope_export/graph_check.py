"""Checks of a model file's graph against its own metadata, without running it.

Each check answers the failures it found; nothing is raised.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from convscope_export.errors import ExportError
from convscope_export.onnx_export import BATCH_AXIS, INPUT_NAME, OUTPUT_NAMES

_FLOAT32 = onnx.TensorProto.FLOAT
_UINT8 = onnx.TensorProto.UINT8


class GraphError(ExportError):
    """The graph is no valid ONNX, or needs more than one file and the standard operators."""


class InputError(ExportError):
    """The graph input has another name, dtype or shape."""


class OutputNameError(ExportError):
    """A graph output or a layer's tensor is missing, or there is one too many."""


class DtypeError(ExportError):
    """A tensor is not float32."""


class DynamicAxisError(ExportError):
    """The batch axis of a tensor is not free."""


class ShapeError(ExportError):
    """A tensor has another shape, declared or computed, than its layer's volume."""


def expected_tensors(metadata: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor a model's metadata promises, without the batch axis, by name.

    Graph outputs first, then the layers in order. Up to the first FC layer a shape is
    (C, H, W), from it on (K,); the last layer's is always (K,).
    """
    classes = len(metadata["labels"])
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(OUTPUT_NAMES, (classes,))
    flat = False
    for layer in metadata["layers"]:
        volume = layer["volume"]
        flat = flat or layer["kind"] == "FC" or layer["tensor"] in OUTPUT_NAMES
        shapes[layer["tensor"]] = (
            (volume["depth"],) if flat else (volume["depth"], volume["height"], volume["width"])
        )
    return shapes


def check_graph(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> Iterator[ExportError]:
    """Yield every way in which the graph is not what docs/model-file.md and its metadata say."""
    yield from _check_validity(model)
    yield from _check_input(model, metadata["input"])
    outputs = {output.name: output for output in model.graph.output}
    if tuple(outputs) != OUTPUT_NAMES:
        yield OutputNameError(
            f"graph outputs: expected {', '.join(OUTPUT_NAMES)}, got {', '.join(outputs) or 'none'}"
        )
    made = {name for node in model.graph.node for name in node.output}
    declared = {info.name: info for info in model.graph.value_info} | outputs
    for name, shape in expected_tensors(metadata).items():
        if name not in declared or name not in made:
            yield OutputNameError(
                f"tensor {name}: expected it among the graph's tensors with a declared shape, "
                f"got {'no declared shape' if name in made else 'no such tensor'}"
            )
            continue
        tensor = declared[name].type.tensor_type
        if tensor.elem_type != _FLOAT32:
            yield DtypeError(f"tensor {name}: expected float32, got {_dtype(tensor.elem_type)}")
        yield from _check_dims(f"tensor {name}", tensor, shape)


def _check_validity(model: onnx.ModelProto) -> Iterator[ExportError]:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and shape inference have no common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield GraphError(f"expected a graph that onnx.checker accepts, got: {reason}")
    domains = {opset.domain for opset in model.opset_import} - {"", "ai.onnx"}
    if domains or model.functions:
        names = sorted(domains | {function.name for function in model.functions})
        yield GraphError(f"expected only standard operators, got {', '.join(names)}")
    for initializer in model.graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            yield GraphError(f"weights {initializer.name}: expected inside the file, got outside")


def _check_input(model: onnx.ModelProto, entry: Mapping[str, Any]) -> Iterator[ExportError]:
    names = [value.name for value in model.graph.input]
    if names != [INPUT_NAME]:
        yield InputError(f"graph inputs: expected {INPUT_NAME}, got {', '.join(names) or 'none'}")
        return
    tensor = model.graph.input[0].type.tensor_type
    if tensor.elem_type != _UINT8:
        yield InputError(f"input {INPUT_NAME}: expected uint8, got {_dtype(tensor.elem_type)}")
    shape = (entry["height"], entry["width"], entry["channels"])
    yield from _check_dims(f"input {INPUT_NAME}", tensor, shape)


def _check_dims(
    what: str, tensor: onnx.TypeProto.Tensor, shape: tuple[int, ...]
) -> Iterator[ExportError]:
    dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    if not dims or dims[0] != BATCH_AXIS:
        got = dims[0] if dims else "no axis"
        yield DynamicAxisError(f"{what}: expected the batch axis {BATCH_AXIS}, got {got}")
    if tuple(dims[1:]) != shape:
        yield ShapeError(
            f"{what}: expected {_text((BATCH_AXIS, *shape))}, got {_text(dims) if dims else 'none'}"
        )


def _text(dims: "list[str | int] | tuple[str | int, ...]") -> str:
    return f"({', '.join(map(str, dims))})"


def _dtype(elem_type: int) -> str:
    return onnx.TensorProto.DataType.Name(elem_type).lower()
