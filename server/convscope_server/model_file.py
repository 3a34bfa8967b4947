"""Reads a model file: is it safe to load, what does it tell, which layers can be tapped.

docs/model-file.md is the contract. Models are untrusted input: they are loaded
from bytes, after these checks. Knows no runtime.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from convscope_server.backend import PROBABILITIES, SCORES, LayerInfo, ModelInfo, Volume
from convscope_server.errors import ModelError

# Far above any image classifier (ResNet-152 has about 500 nodes, 240 MB in float32);
# low enough that a hostile file cannot keep the loader busy or fill the memory.
MAX_MODEL_BYTES = 1 << 30
MAX_NODE_COUNT = 20_000

_STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_RANKS = {2: "(N, C)", 4: "(N, C, H, W)"}


class ModelFile:
    """A checked ONNX model.

    Attributes:
        info: What the file tells of the model.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Check a model and read what it tells.

        Raises:
            ModelError: It is not a model that this server can serve.
        """
        _check_is_safe(proto)
        self._proto = proto
        self.info = _read_info(proto)

    @classmethod
    def load(cls, path: Path) -> "ModelFile":
        """Read a model from a file.

        Raises:
            ModelError: The file is missing, too large, or not a model for this server.
        """
        try:
            size_bytes = path.stat().st_size
            if size_bytes > MAX_MODEL_BYTES:
                raise ModelError(
                    f"{path.name}: expected at most {MAX_MODEL_BYTES} bytes, got {size_bytes}"
                )
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise ModelError(f"{path.name}: cannot be read: {error.strerror}") from error
        except ModelError as error:
            raise ModelError(f"{path.name}: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> "ModelFile":
        """Read a model from the bytes of a file.

        Raises:
            ModelError: The bytes are not a model for this server.
        """
        try:
            proto = onnx.load_model_from_string(data)
        except DecodeError as error:
            raise ModelError(
                "expected an ONNX model, got a file that is truncated or of another kind"
            ) from error
        if not proto.graph.node:
            raise ModelError("expected an ONNX model, got a file without a graph")
        return cls(proto)

    def set_labels(self, labels: tuple[str, ...]) -> None:
        """Take these labels instead of the file's.

        Raises:
            ModelError: They are not as many as the model's classes.
        """
        class_count = len(self.info.labels)
        if len(labels) != class_count:
            raise ModelError(f"expected {class_count} labels, one a class, got {len(labels)}")
        self.info = replace(self.info, labels=labels)

    def serialize(self, tensors: tuple[str, ...] = ()) -> bytes:
        """The model's bytes, with these tensors as graph outputs after its own."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        outputs = {value.name: value for value in self._proto.graph.output}
        if SCORES in outputs and PROBABILITIES in outputs:
            del proto.graph.output[:]
            proto.graph.output.extend([outputs[SCORES], outputs[PROBABILITIES]])
        shapes = {value.name: value for value in self._proto.graph.value_info}
        for tensor in tensors:
            if tensor not in outputs:
                proto.graph.output.append(shapes[tensor])
        return proto.SerializeToString()


def _check_is_safe(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    if len(graph.node) > MAX_NODE_COUNT:
        raise ModelError(f"expected at most {MAX_NODE_COUNT} nodes, got {len(graph.node)}")
    if proto.functions:
        raise ModelError("expected a model without local functions: inline them")
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ModelError(
                "expected all weights inside the file, got external data: "
                "save the model with save_as_external_data=False"
            )
    for node in graph.node:
        if node.domain not in _STANDARD_DOMAINS:
            raise ModelError(f"expected ONNX operators, got {node.domain}::{node.op_type}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise ModelError(f"expected no sub-graphs, got one in {node.op_type}")
            if attribute.t.data_location == TensorProto.EXTERNAL or attribute.t.external_data:
                raise ModelError("expected all constants inside the file, got external data")


def _read_info(proto: onnx.ModelProto) -> ModelInfo:
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    input_name, height, width = _image_input(proto.graph)
    class_count = _class_count(proto.graph)
    told = _Told(metadata)
    labels = told.read("labels", [str(index) for index in range(class_count)])
    if len(labels) != class_count:
        raise ModelError(f"expected {class_count} labels, one a class, got {len(labels)}")
    normalization = told.read("normalization", {"mean": [], "std": []})
    training_data = told.read("training_data", {"name": ""})
    accuracy = told.read("accuracy", {"top1": None, "data": ""})
    layers = _layers(proto, told)
    try:
        return ModelInfo(
            input_name=input_name,
            height=height,
            width=width,
            labels=tuple(map(str, labels)),
            layers=layers,
            description=told.read("description", ""),
            architecture=told.read("architecture", ""),
            mean=tuple(map(float, normalization["mean"])),
            std=tuple(map(float, normalization["std"])),
            parameter_count=sum(layer.weight_count + layer.bias_count for layer in layers)
            or sum(math.prod(tensor.dims) for tensor in proto.graph.initializer),
            multiply_add_count=sum(layer.multiply_add_count for layer in layers),
            training_data=training_data["name"],
            accuracy=accuracy["top1"],
            accuracy_data=accuracy["data"],
            metadata=metadata,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"metadata of this model is not of the expected form: {error!r}") from None


class _Told:
    """Reads convscope.* metadata values, which are JSON."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._metadata = metadata

    def read(self, key: str, default: Any) -> Any:
        text = self._metadata.get(f"convscope.{key}")
        if text is None:
            return default
        try:
            value = json.loads(text)
        except ValueError:
            raise ModelError(
                f"metadata convscope.{key}: expected JSON, got {text[:40]!r}"
            ) from None
        if default is not None and not isinstance(value, type(default)):
            expected = type(default).__name__
            raise ModelError(f"metadata convscope.{key}: expected a {expected}, got {text[:40]!r}")
        return value


def _image_input(graph: onnx.GraphProto) -> tuple[str, int, int]:
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ModelError(f"expected one graph input, got {len(inputs)}: {names}")
    tensor = inputs[0].type.tensor_type
    dims = _dims(inputs[0])
    got = f"{TensorProto.DataType.Name(tensor.elem_type).lower()} {_shape_text(dims)}"
    expected = "expected a graph input of uint8 (N, H, W, 3) with N free"
    if tensor.elem_type != TensorProto.UINT8 or dims is None or len(dims) != 4 or dims[3] != 3:
        raise ModelError(f"{expected}, got {got}")
    batch, height, width, _ = dims
    if batch is not None or height is None or width is None:
        raise ModelError(f"{expected} and H and W fixed, got {got}")
    return inputs[0].name, height, width


def _class_count(graph: onnx.GraphProto) -> int:
    outputs = {value.name: _dims(value) for value in graph.output}
    for name in (SCORES, PROBABILITIES):
        dims = outputs.get(name)
        if dims is None or len(dims) != 2 or not dims[1]:
            got = ", ".join(f"{name} {_shape_text(dims)}" for name, dims in outputs.items())
            raise ModelError(
                f"expected graph outputs scores (N, K), probabilities (N, K), got {got}"
            )
    class_count = outputs[SCORES][1]  # type: ignore[index]
    assert class_count is not None  # noqa: S101 - the loop has seen to it
    return class_count


def _layers(proto: onnx.ModelProto, told: _Told) -> tuple[LayerInfo, ...]:
    tensors = {
        value.name: dims
        for value in (*proto.graph.value_info, *proto.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
        and (dims := _dims(value)) is not None
        and len(dims) in _RANKS
        and all(size for size in dims[1:])
    }
    entries = told.read("layers", [])
    if not entries:
        operators = {output: node.op_type for node in proto.graph.node for output in node.output}
        entries = [
            {"name": name, "kind": operators.get(name, ""), "tensor": name}
            for name in operators
            if name in tensors and name != PROBABILITIES
        ]
    layers = []
    for entry in entries:
        try:
            layers.append(_layer(entry, tensors))
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"metadata convscope.layers: {entry!r} lacks {error}") from None
    return tuple(layers)


def _layer(entry: dict[str, Any], tensors: Mapping[str, list[int | None]]) -> LayerInfo:
    name, tensor = entry["name"], entry["tensor"]
    if tensor not in tensors:
        raise ModelError(
            f"layer {name}: expected a float32 tensor {tensor} of shape "
            f"{' or '.join(_RANKS.values())} in the graph, got none"
        )
    _, depth, *area = tensors[tensor]
    height, width = area or (1, 1)
    return LayerInfo(
        name=name,
        kind=entry["kind"],
        tensor=tensor,
        volume=Volume(depth or 0, height or 0, width or 0),
        rank=len(tensors[tensor]),
        notation=entry.get("notation", ""),
        weight_count=entry.get("weights", 0),
        bias_count=entry.get("biases", 0),
        multiply_add_count=entry.get("multiply_adds", 0),
    )


def _dims(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """The shape, None for a free dimension; None if the file does not tell any."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _shape_text(dims: list[int | None] | None) -> str:
    if dims is None:
        return "of unknown shape"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"
