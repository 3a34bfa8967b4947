"""Reads a model file: is it safe to load, what does it tell, which layers can be tapped.

docs/model-file.md is the form of the files that convscope writes, docs/any-model.md tells
how others are read. Models are untrusted input: they are loaded from bytes, after checks.
Knows no runtime.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from convscope_server.backend import PROBABILITIES, LayerInfo, ModelInfo, Volume
from convscope_server.errors import ModelError
from convscope_server.graph_layers import Dims, FoundLayer, dims_of, find_layers
from convscope_server.image_graph import ImageGraph
from convscope_server.model_metadata import ModelMetadata
from convscope_server.model_safety import MAX_MODEL_BYTES, check_is_safe

_RANKS = {2: "(N, C)", 4: "(N, C, H, W)"}


class ModelFile:
    """A checked ONNX model.

    Attributes:
        info: What the file tells of the model.
        notes: What had to be assumed, a line each, for the log.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Check a model and read what it tells.

        Raises:
            ModelError: It is not a model that this server can serve.
        """
        check_is_safe(proto)
        metadata = ModelMetadata(proto)
        self._graph = ImageGraph(proto, metadata)
        self.notes = tuple(self._graph.notes)
        # Layers whose tensors are not float32 (N, C, H, W) in the graph, by their name here.
        self._converted: dict[str, FoundLayer] = {}
        if metadata.objects("layers"):
            layers = _told_layers(proto, metadata)
        else:
            layers = self._found_layers()
        self.info = _read_info(self._graph, metadata, layers)

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

    def serialize(self, tensors: tuple[str, ...] = (), *, native: bool = False) -> bytes:
        """The model's bytes, with these layers' tensors as graph outputs after its own.

        Args:
            tensors: Of ModelInfo.layers.
            native: With the graph's own input instead of uint8 pixels.
        """
        proto = self._graph.assemble(native=native)
        layers = {layer.tensor: layer for layer in self.info.layers}
        for tensor in tensors:
            layer = layers[tensor]
            if found := self._converted.get(tensor):
                proto.graph.node.extend(self._conversion(found, tensor))
            volume = layer.volume
            shape: list[str | int] = [self.info.batch_size or "N", volume.depth]
            shape += [volume.height, volume.width] if layer.rank == 4 else []
            proto.graph.output.append(
                helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)
            )
        return proto.SerializeToString()

    def _found_layers(self) -> tuple[LayerInfo, ...]:
        graph = self._graph
        layers = []
        for found in find_layers(graph.proto.graph, graph.own.value.name, graph.own.axes):
            layer = found.layer
            if found.source == PROBABILITIES:
                continue
            layer = replace(layer, name=graph.renamed.get(found.source, found.source))
            if found.perm or not found.is_float32:
                layer = replace(layer, tensor=graph.unused(f"convscope.{layer.name}"))
                self._converted[layer.tensor] = found
            layers.append(layer)
        return tuple(layers)

    def _conversion(self, found: FoundLayer, tensor: str) -> list[onnx.NodeProto]:
        """Nodes from a layer's tensor as it is to float32 (N, C, H, W)."""
        source = found.source
        nodes = []
        if found.perm:
            transposed = tensor if found.is_float32 else f"{tensor}.nchw"
            nodes.append(helper.make_node("Transpose", [source], [transposed], perm=found.perm))
            source = transposed
        if not found.is_float32:
            nodes.append(helper.make_node("Cast", [source], [tensor], to=TensorProto.FLOAT))
        return nodes


def _read_info(
    graph: ImageGraph, metadata: ModelMetadata, layers: tuple[LayerInfo, ...]
) -> ModelInfo:
    labels = metadata.strings("labels") or [str(index) for index in range(graph.class_count)]
    if len(labels) != graph.class_count:
        raise ModelError(f"expected {graph.class_count} labels, one a class, got {len(labels)}")
    own = graph.own
    return ModelInfo(
        input_name=graph.input_name,
        height=own.height,
        width=own.width,
        channels=own.channels,
        native=graph.native,
        batch_size=own.batch_size,
        labels=tuple(labels),
        layers=layers,
        description=metadata.text("description"),
        architecture=metadata.text("architecture"),
        mean=metadata.numbers("normalization", "mean", count=own.channels),
        std=metadata.numbers("normalization", "std", count=own.channels),
        parameter_count=sum(layer.weight_count + layer.bias_count for layer in layers)
        or sum(math.prod(tensor.dims) for tensor in graph.proto.graph.initializer),
        multiply_add_count=sum(layer.multiply_add_count for layer in layers),
        training_data=metadata.member_text("training_data", "name"),
        accuracy=metadata.number("accuracy", "top1"),
        accuracy_data=metadata.member_text("accuracy", "data"),
        metadata=metadata.entries,
    )


def _told_layers(proto: onnx.ModelProto, metadata: ModelMetadata) -> tuple[LayerInfo, ...]:
    computed = {name for node in proto.graph.node for name in node.output}
    tensors: dict[str, Dims] = {
        value.name: dims
        for value in (*proto.graph.value_info, *proto.graph.output)
        if value.name in computed
        and value.type.tensor_type.elem_type == TensorProto.FLOAT
        and (dims := dims_of(value)) is not None
        and len(dims) in _RANKS
        and all(size for size in dims[1:])
    }
    layers = [_told_layer(entry, tensors) for entry in metadata.objects("layers")]
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise ModelError("metadata convscope.layers: expected every name once")
    return tuple(layers)


def _told_layer(entry: Mapping[str, Any], tensors: Mapping[str, Dims]) -> LayerInfo:
    for key in ("name", "kind", "tensor"):
        if not isinstance(entry.get(key), str):
            raise ModelError(f"metadata convscope.layers: {entry!r} lacks '{key}'")
    counts = {key: entry.get(key, 0) for key in ("weights", "biases", "multiply_adds")}
    if not all(isinstance(count, int) and 0 <= count < 1 << 63 for count in counts.values()):
        raise ModelError(f"metadata convscope.layers: expected counts as numbers, got {counts}")
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
        notation=str(entry.get("notation", "")),
        weight_count=counts["weights"],
        bias_count=counts["biases"],
        multiply_add_count=counts["multiply_adds"],
    )
