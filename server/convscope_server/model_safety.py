"""Whether a model from anywhere may be given to a runtime: size, operators, nothing outside it."""

from collections import Counter
from collections.abc import Iterable

import onnx
from onnx import TensorProto

from convscope_server.errors import ModelError

# Far above any image classifier (ResNet-152 has about 500 nodes, 240 MB in float32);
# low enough that a hostile file cannot keep the loader busy or fill the memory.
MAX_MODEL_BYTES = 1 << 30
MAX_NODE_COUNT = 20_000
# Elements of one tensor for one image: a constant of a few bytes can ask for any size.
MAX_TENSOR_ELEMENTS = 1 << 30

# com.microsoft holds the operators that ONNX Runtime's own tools put into models.
_STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}


def check_is_safe(proto: onnx.ModelProto) -> None:
    """Refuse what could reach outside the file, run foreign code, or exhaust the machine.

    Raises:
        ModelError: Which expectation does not hold.
    """
    graph = proto.graph
    if len(graph.node) > MAX_NODE_COUNT:
        raise ModelError(f"expected at most {MAX_NODE_COUNT} nodes, got {len(graph.node)}")
    _check_text(proto)
    if proto.functions:
        raise ModelError("expected a model without local functions: inline them")
    if graph.sparse_initializer:
        raise ModelError("expected no sparse initializers: save the weights densely")
    for tensor in _tensors(graph):
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
    _check_names(graph)
    check_sizes(graph)


def _check_text(proto: onnx.ModelProto) -> None:
    """Names that are not UTF-8 are handed out as bytes by protobuf."""
    graph = proto.graph
    names = [value.name for value in (*graph.input, *graph.output)]
    names += [tensor.name for tensor in graph.initializer]
    names += [text for entry in proto.metadata_props for text in (entry.key, entry.value)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"expected names and metadata in UTF-8, got {name!r:.80}")


def check_sizes(graph: onnx.GraphProto) -> None:
    """Refuse tensors that no image needs.

    Raises:
        ModelError: Which one, and how large it is.
    """
    for value in (*graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        elements = 1
        for dim in dims[:16]:
            elements *= max(1, dim.dim_value)
        if len(dims) > 16 or elements > MAX_TENSOR_ELEMENTS or any(d.dim_value < 0 for d in dims):
            raise ModelError(
                f"tensor {value.name}: expected at most {MAX_TENSOR_ELEMENTS} elements for an "
                f"image, got {' x '.join(str(dim.dim_value) for dim in dims[:16])}"
            )


def _check_names(graph: onnx.GraphProto) -> None:
    produced = Counter(name for node in graph.node for name in node.output if name)
    for name, count in produced.most_common(1):
        if count > 1:
            raise ModelError(f"expected every tensor to be computed once, got {name} {count} times")


def _tensors(graph: onnx.GraphProto) -> Iterable[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.sparse_tensors or attribute.HasField("sparse_tensor"):
                raise ModelError(f"expected no sparse constants, got one in {node.op_type}")
            yield attribute.t
            yield from attribute.tensors
