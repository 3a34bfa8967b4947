"""Any image classifier's graph in the form of docs/model-file.md.

Images come in as uint8 (N, H, W, C), scores and probabilities go out as float32 (N, K):
what a foreign graph has otherwise is put right by nodes before and after it, so that
batching, feature maps and devices know one kind of model only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from convscope_server.backend import PROBABILITIES, SCORES, NativeInput
from convscope_server.errors import ModelError, shortened
from convscope_server.graph_layers import FLOATS, Dims, dims_of
from convscope_server.model_metadata import ModelMetadata
from convscope_server.model_safety import check_sizes

_INPUT_DTYPES: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
}
_MIN_OPSET = 7  # from here on arithmetic broadcasts as it does today
_CHANNEL_COUNTS = (1, 3)


@dataclass(frozen=True, slots=True)
class _Input:
    """A graph's own input of images."""

    value: onnx.ValueInfoProto
    axes: str
    batch_size: int | None
    height: int
    width: int
    channels: int

    @property
    def dtype(self) -> str:
        return _INPUT_DTYPES[self.value.type.tensor_type.elem_type]

    @property
    def shape(self) -> tuple[int, ...]:
        sizes = {"C": self.channels, "H": self.height, "W": self.width}
        return tuple(sizes[axis] for axis in self.axes[1:])


class ImageGraph:
    """A graph and what has to be done before and after it.

    Attributes:
        proto: The model with shapes inferred; its graph is not changed otherwise.
        own: Its input of images.
        class_count: K.
        notes: What was assumed, for the log.
        renamed: Names that tensors had before they had to make room, by those they have.
    """

    def __init__(self, proto: onnx.ModelProto, metadata: ModelMetadata) -> None:
        """Find a model's images and scores.

        Raises:
            ModelError: It has none, or more than one.
        """
        self.notes: list[str] = []
        self.renamed: dict[str, str] = {}
        self._check_opset(proto)
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(proto)
        self.own = _find_input(self.proto.graph, metadata)
        _complete_input(self.own)
        # A file that tells its layers tells their shapes too.
        if not metadata.objects("layers"):
            self.proto = _infer_shapes(self.proto)
            check_sizes(self.proto.graph)
        self._names = {name for node in self.proto.graph.node for name in node.output}
        self._names |= {tensor.name for tensor in self.proto.graph.initializer}
        self._names |= {value.name for value in self.proto.graph.input}
        before = self._preparation(metadata)
        self._before_initializers, self._before = before
        self._after, self.class_count = self._find_scores()

    @property
    def input_name(self) -> str:
        """The graph input that takes uint8 (N, H, W, C)."""
        return self._pixels if self._before else self.own.value.name

    @property
    def native(self) -> NativeInput | None:
        """The graph's own input where that is of floats."""
        if self.own.dtype == "uint8":
            return None
        return NativeInput(self.own.value.name, self.own.dtype, self.own.axes, self.own.shape)

    def assemble(self, *, native: bool = False) -> onnx.ModelProto:
        """The whole model, with scores and probabilities as its only outputs.

        Args:
            native: Leave the graph's own input as it is.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        graph = proto.graph
        nodes = list(graph.node)
        del graph.node[:], graph.output[:]
        if self._before and not native:
            for index, value in enumerate(graph.input):
                if value.name == self.own.value.name:
                    del graph.input[index]
                    break
            own = self.own
            shape = [own.batch_size or "N", own.height, own.width, own.channels]
            graph.input.append(
                helper.make_tensor_value_info(self._pixels, TensorProto.UINT8, shape)
            )
            graph.initializer.extend(self._before_initializers)
            graph.node.extend(self._before)
        graph.node.extend(nodes)
        graph.node.extend(self._after)
        for name in (SCORES, PROBABILITIES):
            shape = [self.own.batch_size or "N", self.class_count]
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return proto

    def unused(self, name: str) -> str:
        """A name like this one that no tensor of the graph has."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    @staticmethod
    def _check_opset(proto: onnx.ModelProto) -> None:
        versions = {entry.domain: entry.version for entry in proto.opset_import}
        version = versions.get("", versions.get("ai.onnx", 0))
        newest = onnx.defs.onnx_opset_version()
        if not _MIN_OPSET <= version <= newest:
            raise ModelError(f"expected ONNX opset {_MIN_OPSET} to {newest}, got {version}")
        if proto.ir_version > onnx.IR_VERSION:
            raise ModelError(
                f"expected ONNX IR version {onnx.IR_VERSION} or older, got {proto.ir_version}: "
                "save the model with an older onnx, or install a newer one here"
            )

    def _preparation(
        self, metadata: ModelMetadata
    ) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
        """Constants and nodes from uint8 (N, H, W, C) to the graph's own input."""
        own = self.own
        initializers: list[TensorProto] = []
        nodes: list[onnx.NodeProto] = []
        mean = metadata.numbers("normalization", "mean", count=own.channels)
        std = metadata.numbers("normalization", "std", count=own.channels)
        if any(value <= 0 for value in std):
            raise ModelError(f"metadata convscope.normalization: expected std above 0, got {std}")
        color = metadata.member_text("input", "color") or "RGB"
        if color not in ("RGB", "BGR", "GRAY"):
            raise ModelError(f"metadata convscope.input: expected color RGB or BGR, got {color}")
        is_reversed = color == "BGR" and own.channels == 3
        if own.dtype == "uint8" and own.axes == "NHWC" and not is_reversed:
            return initializers, nodes
        self._pixels = current = self.unused("convscope.pixels")

        def apply(operator: str, *constants: npt.NDArray[Any], **attributes: Any) -> None:
            nonlocal current
            names = []
            for constant in constants:
                names.append(self.unused("convscope.constant"))
                initializers.append(numpy_helper.from_array(constant, names[-1]))
            result = self.unused(f"convscope.{operator.lower()}")
            nodes.append(helper.make_node(operator, [current, *names], [result], **attributes))
            current = result

        if own.dtype != "uint8":  # mean and std are of red, green, blue
            if not mean or not std:
                self.notes.append(
                    "the file tells no normalisation, so pixels are divided by 255: if the model "
                    "wants another, put it into its metadata as convscope.normalization"
                )
            scale = 1 / (255 * np.array(std or [1] * own.channels))
            bias = -np.array(mean or [0] * own.channels) * 255 * scale
            apply("Cast", to=TensorProto.FLOAT)
            apply("Mul", scale.astype(np.float32))
            apply("Add", bias.astype(np.float32))
        if is_reversed:
            apply("Gather", np.array([2, 1, 0]), axis=3)
        if own.axes == "NCHW":
            apply("Transpose", perm=[0, 3, 1, 2])
        if own.dtype == "float16":
            apply("Cast", to=TensorProto.FLOAT16)
        nodes[-1].output[0] = own.value.name
        return initializers, nodes

    def _find_scores(self) -> tuple[list[onnx.NodeProto], int]:
        """Nodes from the graph's own outputs to scores and probabilities; and K."""
        graph = self.proto.graph
        outputs = {value.name: dims_of(value) for value in graph.output if _is_float(value)}
        candidates = [name for name, dims in outputs.items() if self._is_matrix(dims)]
        if not candidates:
            got = ", ".join(f"{value.name} {shape_text(dims_of(value))}" for value in graph.output)
            raise ModelError(
                f"expected an output of class scores, float (N, K), got {shortened([got])}"
            )
        producers = {name: node for node in graph.node for name in node.output}
        ends = [name for name in candidates if _is_softmax(producers.get(name))]
        # What goes through a Softmax is scores for sure; others may be embeddings.
        chosen = SCORES if SCORES in candidates else [*ends, *candidates][0]
        if len(candidates) > 1 and SCORES not in candidates:
            self.notes.append(f"of {len(candidates)} outputs of class scores, {chosen} is taken")
        class_count = (outputs[chosen] or [0, 0])[1] or 0
        producer = producers.get(chosen)
        probabilities, scores = None, chosen
        if producer and _is_softmax(producer):
            scores = producer.input[0]
            probabilities = chosen if producer.op_type == "Softmax" else None
        if SCORES in candidates and PROBABILITIES in candidates:
            probabilities = PROBABILITIES
        after: list[onnx.NodeProto] = []
        values = {value.name: value for value in (*graph.value_info, *graph.output)}

        def finish(source: str, name: str) -> None:
            """Have the source under this name, as float32 (N, K)."""
            value = values.get(source)
            is_float32 = value is not None and value.type.tensor_type.elem_type == TensorProto.FLOAT
            is_flat = value is not None and len(dims_of(value) or []) == 2
            if source == name and is_float32 and is_flat:
                return
            if name in self._names:
                other = self._rename(name)
                source = other if source == name else source
            self._names.add(name)
            flat = self.unused("convscope.flat")
            after.append(helper.make_node("Flatten", [source], [flat], axis=1))
            after.append(helper.make_node("Cast", [flat], [name], to=TensorProto.FLOAT))

        finish(scores, SCORES)
        if probabilities:
            finish(probabilities, PROBABILITIES)
        else:
            if PROBABILITIES in self._names:
                self._rename(PROBABILITIES)
            after.append(helper.make_node("Softmax", [SCORES], [PROBABILITIES], axis=1))
        return after, class_count

    def _is_matrix(self, dims: Dims | None) -> bool:
        """Whether these are the dimensions of one number for each image and class."""
        if dims is None or len(dims) not in (2, 4) or not dims[1] or dims[2:] not in ([], [1, 1]):
            return False
        return dims[0] in (None, self.own.batch_size)

    def _rename(self, name: str) -> str:
        """Give a tensor another name, which is returned, so that its own is free."""
        other = self.unused(name)
        self.renamed[other] = name
        graph = self.proto.graph
        for node in graph.node:
            for names in (node.input, node.output):
                for index, old in enumerate(names):
                    if old == name:
                        names[index] = other
        named: list[Any] = [*graph.value_info, *graph.output, *graph.input, *graph.initializer]
        for value in named:
            if value.name == name:
                value.name = other
        return other


def shape_text(dims: Dims | None) -> str:
    """A shape for an error's text."""
    if dims is None:
        return "of unknown shape"
    return "(" + ", ".join("?" if dim is None else str(dim) for dim in dims) + ")"


def _is_softmax(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type in ("Softmax", "LogSoftmax")


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in FLOATS


def _find_input(graph: onnx.GraphProto, metadata: ModelMetadata) -> _Input:
    defaults = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in defaults]
    if len(values) != 1:
        names = shortened(value.name for value in values)
        raise ModelError(
            f"expected one graph input without a default, got {len(values)}: {names}: give the "
            "others an initializer of the same name"
        )
    value = values[0]
    dims = dims_of(value)
    kind = value.type.tensor_type.elem_type
    got = f"{TensorProto.DataType.Name(kind).lower()} {shape_text(dims)}"
    expected = (
        f"graph input {value.name}: expected images as uint8, float or float16, "
        "(N, H, W, C) or (N, C, H, W) with C of 1 or 3"
    )
    if kind not in _INPUT_DTYPES or dims is None or len(dims) != 4:
        raise ModelError(f"{expected}, got {got}")
    axes = _axes(dims, metadata.member_text("input", "layout"), kind)
    if axes is None:
        raise ModelError(f"{expected}, got {got}")
    sizes = dict(zip(axes, dims, strict=True))
    told = {
        axis: int(metadata.number("input", member) or 0)
        for axis, member in (("H", "height"), ("W", "width"))
    }
    height, width = (sizes[axis] or told[axis] for axis in "HW")
    if not 0 < height <= 1 << 14 or not 0 < width <= 1 << 14:
        raise ModelError(
            f"{expected} and H and W fixed, got {got}: fix them in the graph, or tell them in its "
            'metadata as convscope.input {"height": …, "width": …}'
        )
    if sizes["N"] == 0:
        raise ModelError(f"{expected}, got {got}: a batch of no images")
    return _Input(value, axes, sizes["N"], height, width, sizes["C"] or 0)


def _axes(dims: Dims, told: str, kind: int) -> str | None:
    """Which axis of an input is which: by the one that can be channels, or as it is told."""
    possible = []
    if dims[1] in _CHANNEL_COUNTS:
        possible.append("NCHW")
    if dims[3] in _CHANNEL_COUNTS:
        possible.append("NHWC")
    if told in possible:
        return told
    if len(possible) == 2:  # as frameworks have it that use this dtype
        return "NHWC" if kind == TensorProto.UINT8 else "NCHW"
    return possible[0] if possible else None


def _complete_input(own: _Input) -> None:
    """Write what is known of the input into the graph, for the shapes that follow from it."""
    for dim, axis, size in zip(
        own.value.type.tensor_type.shape.dim,
        own.axes,
        (own.batch_size, *own.shape),
        strict=True,
    ):
        if size:
            dim.dim_value = size
        elif axis == "N" and not dim.dim_param:
            dim.dim_param = "N"


def _infer_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:  # onnx raises several unrelated classes here
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"the graph contradicts itself: {first_line}") from error
