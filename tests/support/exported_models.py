"""Image classifiers as others export them, and what each of their tensors must hold.

The oracle is onnx.reference.ReferenceEvaluator with all tensors of the untouched
model as outputs, fed with pixels that numpy has normalised.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]

# Height and width differ, so that none is taken for the other.
HEIGHT, WIDTH = 8, 12
NCHW, NHWC = (0, 1, 2, 3), (0, 3, 1, 2)
NHWC_TURNED, NCWH = (0, 3, 2, 1), (0, 1, 3, 2)


@dataclass
class Foreign:
    """A model, and what a reader of its graph would say of it.

    Attributes:
        model: As its exporter wrote it.
        layout: What turns its input into (N, C, H, W).
        taps: For each layer that must be offered, what turns its tensor into (N, C, H, W);
            None for (N, C).
        scores: The tensor with the class scores.
        mean, std: Of its pixels scaled to 0-1; None for a model that takes pixels.
        batch_size: Rows that it takes; None if any.
        is_bgr: Whether its channels are blue, green, red.
    """

    model: onnx.ModelProto
    layout: tuple[int, ...]
    taps: dict[str, tuple[int, ...] | None]
    scores: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_size: int | None = None
    is_bgr: bool = False
    input_name: str = "input"

    @property
    def channels(self) -> int:
        shape = self._dims()
        return shape[self.layout[1]]

    @property
    def dtype(self) -> np.dtype[Any]:
        (value,) = [value for value in self.model.graph.input if value.name == self.input_name]
        return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)

    def images(self, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
        """Random pixels, uint8, (count, H, W, C)."""
        shape = (count, HEIGHT, WIDTH, self.channels)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    def own_input(self, images: npt.NDArray[np.uint8]) -> Array:
        """Pixels as the graph takes them: normalised, and in its own layout."""
        values: Array = images
        if self.mean is not None and self.std is not None:
            values = (images / 255.0 - np.array(self.mean)) / np.array(self.std)
        if self.is_bgr:
            values = values[..., ::-1]
        back = np.argsort(self.layout)  # from (N, C, H, W)
        return values.transpose(0, 3, 1, 2).transpose(back).astype(self.dtype)

    def expected(self, images: npt.NDArray[np.uint8]) -> dict[str, Array]:
        """Every layer, float32 (N, C, H, W) or (N, C), "scores" and "probabilities"."""
        step = self.batch_size or len(images)
        parts = [self._run(images[start : start + step]) for start in range(0, len(images), step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, images: npt.NDArray[np.uint8]) -> dict[str, Array]:
        fed = self.own_input(images)
        rows = len(fed)
        if self.batch_size:
            fill = np.zeros((self.batch_size - rows, *fed.shape[1:]), fed.dtype)
            fed = np.concatenate([fed, fill])
        whole = onnx.ModelProto()
        whole.CopyFrom(self.model)
        names = [name for node in whole.graph.node for name in node.output if name]
        whole.graph.ClearField("output")
        for name in names:
            whole.graph.output.add(name=name)
        defaults = {tensor.name for tensor in whole.graph.initializer}
        inputs = [value for value in whole.graph.input if value.name not in defaults]
        whole.graph.ClearField("input")
        whole.graph.input.extend(inputs)
        values = dict(
            zip(names, ReferenceEvaluator(whole).run(None, {self.input_name: fed}), strict=True)
        )
        layers = {
            name: (values[name] if order is None else values[name].transpose(order))[:rows]
            for name, order in self.taps.items()
        }
        scores = values[self.scores].reshape(len(fed), -1)[:rows].astype(np.float32)
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        return {
            **{f"layer {name}": value.astype(np.float32) for name, value in layers.items()},
            "scores": scores,
            "probabilities": exponentials / exponentials.sum(axis=1, keepdims=True),
        }

    def _dims(self) -> list[int]:
        (value,) = [value for value in self.model.graph.input if value.name == self.input_name]
        return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


@dataclass
class Builder:
    """Nodes and weights of a graph under construction; the weights are random, always the same."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    dtype: Any = np.float32

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def weights(self, *shape: int) -> str:
        seed = len(self.constants)
        scale = math.prod(shape[1:]) ** -0.5
        values = np.random.default_rng(seed).normal(0, scale, shape).astype(self.dtype)
        return self.constant(values)

    def constant(self, values: Any, name: str = "") -> str:
        name = name or f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def conv(self, source: str, output: str, shape: tuple[int, ...], **attributes: Any) -> str:
        inputs = [source, self.weights(*shape), self.weights(shape[0])]
        return self.add("Conv", inputs, output, **attributes)

    def model(
        self,
        outputs: list[str],
        *,
        dims: list[str | int | None] | None = None,
        elem_type: int = TensorProto.FLOAT,
        input_name: str = "input",
        opset: int = 18,
        metadata: dict[str, Any] | None = None,
    ) -> onnx.ModelProto:
        shape = dims or ["N", 3, HEIGHT, WIDTH]
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info(input_name, elem_type, shape)],
            # As many exporters do: the outputs' shapes are not told.
            [
                helper.make_tensor_value_info(
                    name,
                    TensorProto.FLOAT16 if self.dtype == np.float16 else TensorProto.FLOAT,
                    None,
                )
                for name in outputs
            ],
            self.constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10
        )
        for key, value in (metadata or {}).items():
            model.metadata_props.add(key=f"convscope.{key}", value=json.dumps(value))
        return model


_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_PLAIN: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}


def _imagenet() -> dict[str, Any]:
    return {key: tuple(value) for key, value in _IMAGENET.items()}


def convolutions() -> Foreign:
    """Every kind of convolution; float32 NCHW, normalised."""
    b = Builder()
    b.conv("input", "pointwise", (8, 3, 1, 1))
    b.conv("pointwise", "depthwise", (8, 1, 3, 3), group=8, pads=[1, 1, 1, 1])
    b.conv("depthwise", "dilated", (8, 8, 3, 3), dilations=[2, 2], pads=[2, 2, 2, 2])
    b.conv("dilated", "grouped", (12, 4, 3, 3), group=2, pads=[1, 1, 1, 1])
    b.add("Relu", ["grouped"], "relu")
    b.conv("relu", "asymmetric", (8, 12, 3, 2), pads=[0, 1, 2, 0])
    b.conv("asymmetric", "strided", (6, 8, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    b.add("ConvTranspose", ["strided", b.weights(6, 5, 2, 2)], "transposed", strides=[2, 2])
    b.add("GlobalAveragePool", ["transposed"], "pooled")
    b.add("Flatten", ["pooled"], "flat")
    b.add("Gemm", ["flat", b.weights(5, 4), b.weights(4)], "logits")
    names = ["pointwise", "depthwise", "dilated", "grouped", "relu", "asymmetric", "strided"]
    taps: dict[str, tuple[int, ...] | None] = dict.fromkeys([*names, "transposed", "pooled"], NCHW)
    taps |= {"flat": None, "logits": None}
    model = b.model(["logits"], metadata={"normalization": _IMAGENET})
    return Foreign(model, NCHW, taps, "logits", **_imagenet())


def residual() -> Foreign:
    """Residual additions, normalisation, concatenation; a head (N, K, 1, 1) and no metadata."""
    b = Builder()
    b.conv("input", "stem", (6, 3, 3, 3), pads=[1, 1, 1, 1])
    positive = b.constant(np.linspace(0.5, 2, 6, dtype=np.float32))
    statistics = [b.weights(6), b.weights(6), b.weights(6), positive]
    b.add("BatchNormalization", ["stem", *statistics], "normed")
    b.add("Relu", ["normed"], "relu1")
    b.conv("relu1", "branch", (6, 6, 3, 3), pads=[1, 1, 1, 1])
    b.add("Add", ["branch", "relu1"], "sum")
    b.add("MaxPool", ["sum"], "max", kernel_shape=[2, 2], strides=[2, 2])
    b.add("AveragePool", ["sum"], "average", kernel_shape=[2, 2], strides=[2, 2])
    b.add("Concat", ["max", "average"], "both", axis=1)
    # Squeeze and excitation
    b.add("ReduceMean", ["both", b.ints(2, 3)], "squeezed", keepdims=0)
    b.add("Gemm", ["squeezed", b.weights(12, 12)], "excited")
    b.add("Sigmoid", ["excited"], "gate")
    b.add("Unsqueeze", ["gate", b.ints(2, 3)], "wide_gate")
    b.add("Mul", ["both", "wide_gate"], "gated")
    b.conv("gated", "classes", (5, 12, 1, 1))
    b.add("GlobalAveragePool", ["classes"], "head")
    names = ["stem", "normed", "relu1", "branch", "sum", "max", "average", "both", "wide_gate"]
    taps: dict[str, tuple[int, ...] | None] = dict.fromkeys(
        [*names, "gated", "classes", "head"], NCHW
    )
    taps |= dict.fromkeys(["squeezed", "excited", "gate"])
    return Foreign(b.model(["head"]), NCHW, taps, "head", **_PLAIN)


def channels_last() -> Foreign:
    """A graph as tf2onnx writes it: NHWC between the convolutions; ends in a Softmax."""
    b = Builder()
    b.add("Transpose", ["input"], "t1", perm=[0, 3, 1, 2])
    b.conv("t1", "conv1", (6, 3, 3, 3), pads=[1, 1, 1, 1])
    b.add("Transpose", ["conv1"], "conv1_nhwc", perm=[0, 2, 3, 1])
    b.add("Add", ["conv1_nhwc", b.weights(6)], "biased")
    b.add("Relu", ["biased"], "relu1")
    b.add("Pad", ["relu1", b.ints(0, 1, 0, 0, 0, 0, 1, 0)], "padded")
    b.add("MatMul", ["padded", b.weights(6, 4)], "dense")
    b.add("Transpose", ["dense"], "t2", perm=[0, 3, 1, 2])
    b.add("MaxPool", ["t2"], "pool1", kernel_shape=[3, 3], strides=[2, 2])
    b.add("Transpose", ["pool1"], "pool1_nhwc", perm=[0, 2, 3, 1])
    b.add("ReduceMean", ["pool1_nhwc", b.ints(1, 2)], "mean", keepdims=0)
    b.add("MatMul", ["mean", b.weights(4, 3)], "logits")
    b.add("Softmax", ["logits"], "softmax")
    taps: dict[str, tuple[int, ...] | None] = dict.fromkeys(["t1", "conv1", "t2", "pool1"], NCHW)
    taps |= dict.fromkeys(["conv1_nhwc", "biased", "relu1", "padded", "dense", "pool1_nhwc"], NHWC)
    taps |= dict.fromkeys(["mean", "logits", "softmax"])
    model = b.model(
        ["softmax"], dims=["N", HEIGHT, WIDTH, 3], metadata={"normalization": _IMAGENET}
    )
    return Foreign(model, NHWC, taps, "logits", **_imagenet())


def turned() -> Foreign:
    """Width and height change places on the way into the convolutions."""
    b = Builder()
    b.add("Transpose", ["input"], "t1", perm=[0, 3, 2, 1])
    b.conv("t1", "conv1", (4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[1, 2])
    b.add("Relu", ["conv1"], "relu1")
    b.add("Transpose", ["relu1"], "back", perm=[0, 2, 3, 1])
    b.add("Flatten", ["back"], "flat")
    b.add("MatMul", ["flat", b.weights(WIDTH * HEIGHT // 2 * 4, 3)], "logits")
    taps: dict[str, tuple[int, ...] | None] = dict.fromkeys(["t1", "conv1", "relu1"], NCWH)
    taps |= {"back": NHWC_TURNED, "flat": None, "logits": None}
    model = b.model(["logits"], dims=["N", HEIGHT, WIDTH, 3])
    return Foreign(model, NHWC, taps, "logits", **_PLAIN)


def shuffled() -> Foreign:
    """A channel shuffle by reshapes, whose shapes are computed as torch's older exporter does."""
    b = Builder()
    b.conv("input", "conv1", (6, 3, 3, 3), pads=[1, 1, 1, 1])
    b.add("Reshape", ["conv1", b.ints(0, 2, 3, HEIGHT, WIDTH)], "groups")
    b.add("Transpose", ["groups"], "swapped", perm=[0, 2, 1, 3, 4])
    b.add("Reshape", ["swapped", b.ints(0, 6, HEIGHT, WIDTH)], "shuffled")
    b.add("Split", ["shuffled", b.ints(3, 3)], "left", axis=1)
    b.nodes[-1].output.append("right")
    b.add("Mul", ["left", "right"], "product")
    b.add("Shape", ["product"], "shape")
    b.add("Gather", ["shape", b.constant(np.array(0, np.int64))], "rows")
    b.add("Unsqueeze", ["rows", b.ints(0)], "rows1")
    b.add("Concat", ["rows1", b.ints(-1)], "flat_shape", axis=0)
    b.add("Reshape", ["product", "flat_shape"], "flat")
    b.add("Gemm", ["flat", b.weights(3 * HEIGHT * WIDTH, 3)], "logits")
    b.add("LogSoftmax", ["logits"], "log_probabilities", axis=1)
    taps: dict[str, tuple[int, ...] | None] = dict.fromkeys(
        ["conv1", "shuffled", "left", "right", "product"], NCHW
    )
    taps |= dict.fromkeys(["flat", "logits", "log_probabilities"])
    return Foreign(b.model(["log_probabilities"]), NCHW, taps, "logits", **_PLAIN)


def several_outputs() -> Foreign:
    """A second input that has a default, embeddings before the classes, and tricky names."""
    b = Builder()
    b.conv("images", "scores", (4, 3, 3, 3))  # named so, but not the class scores
    b.add("Mul", ["scores", "scale"], "convscope:pixels")
    b.add("Relu", ["convscope:pixels"], "relu [1]*?/ü:0")
    b.add("GlobalMaxPool", ["relu [1]*?/ü:0"], "probabilities")
    b.add("Flatten", ["probabilities"], "embedding")
    b.add("Gemm", ["embedding", b.weights(4, 3)], "logits")
    b.add("Softmax", ["logits"], "Identity:0", axis=-1)
    b.constant(np.array(2.5, np.float32), "scale")
    model = b.model(["embedding", "Identity:0", "relu [1]*?/ü:0"], input_name="images")
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))
    taps: dict[str, tuple[int, ...] | None] = dict.fromkeys(
        ["scores", "convscope:pixels", "relu [1]*?/ü:0", "probabilities"], NCHW
    )
    taps |= dict.fromkeys(["embedding", "logits", "Identity:0"])
    return Foreign(model, NCHW, taps, "logits", input_name="images", **_PLAIN)


def _small(
    builder: Builder, channels: int = 3, opset: int = 18, **settings: Any
) -> tuple[onnx.ModelProto, dict[str, tuple[int, ...] | None]]:
    builder.conv("cast" if settings.get("cast") else "input", "conv1", (4, channels, 3, 3))
    builder.add("Relu", ["conv1"], "relu1")
    builder.add("GlobalAveragePool", ["relu1"], "pooled")
    builder.add("Flatten", ["pooled"], "flat")
    builder.add("Gemm", ["flat", builder.weights(4, 3)], "logits")
    taps: dict[str, tuple[int, ...] | None] = dict.fromkeys(["conv1", "relu1", "pooled"], NCHW)
    taps |= dict.fromkeys(["flat", "logits"])
    settings.pop("cast", None)
    return builder.model(["logits"], opset=opset, **settings), taps


def fixed_batch(batch_size: int) -> Foreign:
    """The batch size is a number, and stands in a Reshape too."""
    b = Builder()
    b.conv("input", "conv1", (4, 3, 3, 3), strides=[2, 2])
    b.add("MaxPool", ["conv1"], "pool1", kernel_shape=[2, 2])
    b.add("Reshape", ["pool1", b.ints(batch_size, -1)], "flat")
    b.add("Gemm", ["flat", b.weights(4 * 2 * 4, 3)], "logits")
    taps: dict[str, tuple[int, ...] | None] = {"conv1": NCHW, "pool1": NCHW}
    taps |= {"flat": None, "logits": None}
    model = b.model(["logits"], dims=[batch_size, 3, HEIGHT, WIDTH])
    return Foreign(model, NCHW, taps, "logits", batch_size=batch_size, **_PLAIN)


def half() -> Foreign:
    """float16 from end to end."""
    b = Builder(dtype=np.float16)
    model, taps = _small(b, elem_type=TensorProto.FLOAT16, metadata={"normalization": _IMAGENET})
    return Foreign(model, NCHW, taps, "logits", **_imagenet())


def grey() -> Foreign:
    """One channel, normalised, height and width told by the metadata alone."""
    model, taps = _small(
        Builder(),
        channels=1,
        metadata={
            "normalization": {"mean": [0.13], "std": [0.31]},
            "input": {"height": HEIGHT, "width": WIDTH},
        },
        dims=["N", 1, None, None],
    )
    return Foreign(model, NCHW, taps, "logits", mean=(0.13,), std=(0.31,))


def bgr_bytes() -> Foreign:
    """Takes blue, green, red as bytes, NCHW, and an old opset."""
    b = Builder()
    b.add("Cast", ["input"], "cast", to=TensorProto.FLOAT)
    model, taps = _small(
        b, opset=11, elem_type=TensorProto.UINT8, metadata={"input": {"color": "BGR"}}, cast=True
    )
    return Foreign(model, NCHW, {"cast": NCHW, **taps}, "logits", is_bgr=True)


FOREIGN: dict[str, Callable[[], Foreign]] = {
    "convolutions": convolutions,
    "residual": residual,
    "channels_last": channels_last,
    "turned": turned,
    "shuffled": shuffled,
    "several_outputs": several_outputs,
    "fixed_batch_1": lambda: fixed_batch(1),
    "fixed_batch_4": lambda: fixed_batch(4),
    "half": half,
    "grey": grey,
    "bgr_bytes": bgr_bytes,
}
