"""ONNX models as other tools write them, without a word about themselves."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

F32, F16, U8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8


class Graph:
    """A graph in the making: add() appends a node and returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._random = np.random.default_rng(seed)

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def weight(self, *shape: int, dtype: Any = np.float32) -> str:
        values = self._random.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        return self.constant(values.astype(dtype))

    def constant(self, values: npt.NDArray[Any]) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, source: str, depth_in: int, depth: int, side: int = 3, **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        weight = self.weight(depth, depth_in // groups, side, side)
        if not {"pads", "auto_pad"} & set(attributes):
            attributes["pads"] = [side // 2] * 4
        return self.add("Conv", source, weight, self.weight(depth), **attributes)

    def head(self, source: str, depth: int, classes: int = 5, name: str = "logits") -> str:
        pooled = self.add("GlobalAveragePool", source)
        flat = self.add("Flatten", pooled)
        return self.add("Gemm", flat, self.weight(depth, classes), self.weight(classes), name=name)

    def model(
        self,
        inputs: Sequence[tuple[str, int, Sequence[Any]]],
        outputs: Sequence[tuple[str, int, Sequence[Any]]],
        opset: int = 17,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            self.weights,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def residual(batch: Any = "batch") -> onnx.ModelProto:
    """float32 (N, C, H, W), batch normalisation, residual adds, logits."""
    g = Graph()
    x = g.add("Relu", g.conv("input", 3, 8))
    for _ in range(2):
        y = g.conv(x, 8, 8)
        scale = g.constant(np.linspace(0.5, 1.5, 8, dtype=np.float32))
        y = g.add(
            "BatchNormalization",
            *(y, scale, g.weight(8), g.weight(8), g.constant(np.ones(8, np.float32))),
        )
        x = g.add("Relu", g.add("Add", x, y))
    return g.model([("input", F32, [batch, 3, 8, 8])], [(g.head(x, 8), F32, [batch, 5])])


def convolution_variants() -> onnx.ModelProto:
    """Grouped, depthwise, dilated, strided, asymmetrically padded, 1x1, and transposed."""
    g = Graph(1)
    x = g.conv("input", 3, 6)
    x = g.add("LeakyRelu", g.conv(x, 6, 6, group=3))
    least = g.constant(np.array(0, np.float32))
    x = g.add("Clip", g.conv(x, 6, 6, group=6), least, name="clip")
    x = g.conv(x, 6, 6, dilations=[2, 2], pads=[2, 2, 2, 2])
    x = g.add("Sigmoid", g.conv(x, 6, 6, strides=[2, 2]), name="sigmoid")
    x = g.conv(x, 6, 6, pads=[0, 1, 2, 1])
    x = g.conv(x, 6, 4, side=1)
    up = g.add("ConvTranspose", x, g.weight(4, 4, 2, 2), name="up", strides=[2, 2])
    pooled = g.add("MaxPool", up, name="pooled", kernel_shape=[3, 3], pads=[1] * 4)
    both = g.add("Concat", up, pooled, name="both", axis=1)
    return g.model([("input", F32, ["N", 3, 10, 12])], [(g.head(both, 8), F32, ["N", 5])])


def channels_last() -> onnx.ModelProto:
    """As tf2onnx writes them: (N, H, W, C) outside, Transpose around each convolution."""
    g = Graph(2)

    def conv(source: str, depth_in: int, depth: int) -> str:
        first = g.add("Transpose", source, perm=[0, 3, 1, 2])
        return g.add("Transpose", g.conv(first, depth_in, depth), perm=[0, 2, 3, 1])

    x = g.add("Relu", conv("image", 3, 4))
    x = g.add("Add", x, g.weight(4))
    y = g.add("Relu", conv(x, 4, 4))
    x = g.add("Mul", x, y)
    mean = g.add("ReduceMean", x, axes=[1, 2], keepdims=0)
    scores = g.add("MatMul", mean, g.weight(4, 5))
    probabilities = g.add("Softmax", scores, name="Identity:0", axis=-1)
    return g.model([("image", F32, ["unk", 6, 7, 3])], [(probabilities, F32, ["unk", 5])], 15)


def half_precision() -> onnx.ModelProto:
    """float16 throughout."""
    g = Graph(3)
    weight = g.weight(4, 3, 3, 3, dtype=np.float16)
    x = g.add("Relu", g.add("Conv", "input", weight, pads=[1] * 4))
    flat = g.add("Flatten", g.add("MaxPool", x, kernel_shape=[4, 4], strides=[4, 4]))
    scores = g.add("MatMul", flat, g.weight(16, 5, dtype=np.float16))
    return g.model([("input", F16, ["N", 3, 8, 8])], [(scores, F16, ["N", 5])])


def grey() -> onnx.ModelProto:
    """One channel, with a head of (N, K, 1, 1), ending in Softmax as opset 11 has it."""
    g = Graph(4)
    x = g.add("Tanh", g.conv("input", 1, 4))
    x = g.add("GlobalMaxPool", g.conv(x, 4, 5, side=1))
    scores = g.add("Softmax", x, axis=1)
    return g.model([("input", F32, ["N", 1, 9, 9])], [(scores, F32, ["N", 5, 1, 1])], 11)


def unsigned_channels_first() -> onnx.ModelProto:
    """uint8 (N, C, H, W), normalised inside; tensors with names of many kinds."""
    g = Graph(5)
    x = g.add("Cast", "data", name="cast*", to=F32)
    x = g.add("Relu", g.conv(x, 3, 4), name="/features/0/[relu]?")
    x = g.add("AveragePool", x, name="übergang:0", kernel_shape=[2, 2], strides=[2, 2])
    return g.model([("data", U8, ["N", 3, 8, 8])], [(g.head(x, 4), F32, ["N", 5])])


def several_inputs_and_outputs() -> onnx.ModelProto:
    """An input with a default, an auxiliary head, a mask as output, and ill-chosen names."""
    g = Graph(6)
    gain = g.constant(np.array([2], np.float32))
    x = g.add("Relu", g.add("Mul", g.conv("input", 3, 4), gain), name="scores")
    y = g.add("Relu", g.conv(x, 4, 4), name="probabilities")
    main = g.head(y, 4)
    auxiliary = g.head(x, 4, name="auxiliary")
    mask = g.add("Sigmoid", g.conv(y, 4, 1, side=1), name="mask")
    outputs = [
        (mask, F32, ["N", 1, 8, 8]),
        (main, F32, ["N", 5]),
        (auxiliary, F32, ["N", 5]),
    ]
    return g.model([("input", F32, ["N", 3, 8, 8]), (gain, F32, [1])], outputs)


def channel_shuffle() -> onnx.ModelProto:
    """Axes lost in a Reshape and found again by the next convolution."""
    g = Graph(7)
    x = g.conv("input", 3, 4)
    split = g.add("Reshape", x, g.constant(np.array([0, 2, 2, 8, 8])))
    swapped = g.add("Transpose", split, perm=[0, 2, 1, 3, 4])
    joined = g.add("Reshape", swapped, g.constant(np.array([0, 4, 8, 8])), name="shuffled")
    x = g.add("Relu", g.conv(joined, 4, 4), name="after")
    return g.model([("input", F32, ["N", 3, 8, 8])], [(g.head(x, 4), F32, ["N", 5])])


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "residual": residual,
    "fixed_batch_1": lambda: residual(1),
    "fixed_batch_4": lambda: residual(4),
    "convolution_variants": convolution_variants,
    "channels_last": channels_last,
    "half_precision": half_precision,
    "grey": grey,
    "unsigned_channels_first": unsigned_channels_first,
    "several_inputs_and_outputs": several_inputs_and_outputs,
    "channel_shuffle": channel_shuffle,
}
