"""The layers of a graph that does not tell them: which tensors are activations, and which way up.

Feature maps leave as (N, C, H, W). Graphs converted from TensorFlow hold tensors of
(N, H, W, C) between Transpose nodes, so the meaning of the axes is followed through the
graph; where it is lost, as in a Reshape to four dimensions, there is no layer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from convscope_server.backend import LayerInfo, Volume

Dims = list[int | None]

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}

# Operators whose first axes are (N, C) by definition. The others stay what they were:
# a network may see its pictures turned, (N, C, W, H).
_CHANNELS_FIRST = {
    *("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "BatchNormalization"),
    *("InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth"),
    *("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"),
    *("PRelu",),
}
# Operators after which the axes mean something else, or may.
_AXES_LOST = {"Reshape", "Expand", "Gather", "GatherND", "Einsum", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """An activation of the graph.

    Attributes:
        layer: What it is told as.
        source: The graph's tensor.
        perm: What transposes it to (N, C, H, W); None if it is so already.
        is_float32: Whether it needs no conversion.
    """

    layer: LayerInfo
    source: str
    perm: tuple[int, ...] | None
    is_float32: bool


def find_layers(graph: onnx.GraphProto, input_name: str, input_axes: str) -> list[FoundLayer]:
    """Every activation of known axes, in the order in which it is computed.

    Args:
        graph: With the shapes of its tensors inferred.
        input_name: The images.
        input_axes: What their axes are: "NCHW" or "NHWC".
    """
    values = {value.name: value for value in (*graph.value_info, *graph.output)}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    axes: dict[str, str | None] = {input_name: input_axes}  # of what depends on the images
    found = []
    for node in graph.node:
        if not any(name in axes for name in node.input):
            continue
        for name in node.output:
            if not name:
                continue
            dims = dims_of(values[name]) if name in values else None
            axes[name] = _axes(node, axes, values, dims)
            if dims is None or values[name].type.tensor_type.elem_type not in FLOATS:
                continue
            if layer := _layer(node, name, dims, axes[name], weights):
                is_float32 = values[name].type.tensor_type.elem_type == TensorProto.FLOAT
                perm = None if axes[name] in ("NC", "NCHW") else _to_nchw(axes[name] or "")
                found.append(FoundLayer(layer, name, perm, is_float32))
    return found


def dims_of(value: onnx.ValueInfoProto) -> Dims | None:
    """A tensor's shape, None for a free dimension; None if the file does not tell any."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _axes(
    node: onnx.NodeProto,
    axes: Mapping[str, str | None],
    values: Mapping[str, onnx.ValueInfoProto],
    dims: Dims | None,
) -> str | None:
    """What the axes of a node's outputs are; None if that is not known."""
    if dims is None or len(dims) not in (2, 4):
        return None
    if len(dims) == 2:
        return "NC"
    sources = [axes[name] for name in node.input if axes.get(name) and len(axes[name] or "") == 4]
    if node.op_type in _CHANNELS_FIRST:
        return sources[0] if sources and (sources[0] or "").startswith("NC") else "NCHW"
    if node.op_type == "Unsqueeze" and not sources and dims[2:] == [1, 1]:
        return "NCHW"  # of (N, C), as in squeeze and excitation
    if node.op_type == "MatMul" and not (sources and (sources[0] or "").endswith("C")):
        return None
    if not sources or node.op_type in _AXES_LOST:
        return None
    if node.op_type == "Transpose":
        perm = _permutation(node)
        return "".join((sources[0] or "")[axis] for axis in perm) if len(perm) == 4 else None
    return sources[0] if len(set(sources)) == 1 else None


def _permutation(node: onnx.NodeProto) -> list[int]:
    for attribute in node.attribute:
        if attribute.name == "perm":
            return list(attribute.ints)
    return [3, 2, 1, 0]


def _to_nchw(axes: str) -> tuple[int, ...]:
    return tuple(axes.index(axis) for axis in "NCHW")


def _layer(
    node: onnx.NodeProto,
    name: str,
    dims: Dims,
    axes: str | None,
    weights: Mapping[str, TensorProto],
) -> LayerInfo | None:
    if axes is None or not axes.startswith("N"):
        return None
    sizes = dict(zip(axes, dims, strict=True))
    depth, height, width = sizes["C"], sizes.get("H", 1), sizes.get("W", 1)
    if not depth or not height or not width:  # free, or nothing in it
        return None
    weight_count, bias_count, multiply_add_count = _parameters(node, weights, height * width)
    return LayerInfo(
        name=name,
        kind=node.op_type,
        tensor=name,
        volume=Volume(depth, height, width),
        rank=len(dims),
        weight_count=weight_count,
        bias_count=bias_count,
        multiply_add_count=multiply_add_count,
    )


def _parameters(
    node: onnx.NodeProto, weights: Mapping[str, TensorProto], positions: int
) -> tuple[int, int, int]:
    """Weights, biases and multiply-adds for one image, of the operators that courses count."""
    sizes = [math.prod(weights[name].dims) if name in weights else 0 for name in node.input]
    if node.op_type == "Conv" and len(sizes) > 1:
        return sizes[1], sum(sizes[2:]), sizes[1] * positions
    if node.op_type == "Gemm" and len(sizes) > 1:
        return sizes[1], sum(sizes[2:]), sizes[1]
    if node.op_type == "MatMul":
        return sum(sizes), 0, sum(sizes)
    return 0, 0, 0
