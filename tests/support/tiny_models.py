"""ONNX models small enough to know every activation: whole numbers, so results are exact."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

HEIGHT = WIDTH = 4
LABELS = ("red", "green", "blue")
# conv1: channel 0 is red - green, channel 1 is blue - 10.
CONV1_WEIGHTS = np.array([[1, -1, 0], [0, 0, 1]], np.float32).reshape(2, 3, 1, 1)
CONV1_BIASES = np.array([0, -10], np.float32)
FC1_WEIGHTS = (np.arange(24).reshape(8, 3) % 5 - 2).astype(np.float32)
FC1_BIASES = np.array([1, 2, 3], np.float32)


def tiny_model(*, metadata: bool = True, offset: float = 0) -> onnx.ModelProto:
    """A model file as docs/model-file.md says: see _metadata for its architecture.

    Without metadata it is a foreign model: no labels, no layer list. The offset is
    added to every score, to tell one such model from another.
    """
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["nchw"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["pixels", "conv1.w", "conv1.b"], ["conv1"]),
            helper.make_node("Relu", ["conv1"], ["relu1"]),
            helper.make_node("MaxPool", ["relu1"], ["pool1"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["pool1"], ["flat"]),
            helper.make_node("Gemm", ["flat", "fc1.w", "fc1.b"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "tiny",
        [_value("images", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])],
        [
            _value("scores", TensorProto.FLOAT, ["N", 3]),
            _value("probabilities", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            numpy_helper.from_array(CONV1_WEIGHTS, "conv1.w"),
            numpy_helper.from_array(CONV1_BIASES, "conv1.b"),
            numpy_helper.from_array(FC1_WEIGHTS, "fc1.w"),
            numpy_helper.from_array(FC1_BIASES + np.float32(offset), "fc1.b"),
        ],
        value_info=[
            _value("conv1", TensorProto.FLOAT, ["N", 2, 4, 4]),
            _value("relu1", TensorProto.FLOAT, ["N", 2, 4, 4]),
            _value("pool1", TensorProto.FLOAT, ["N", 2, 2, 2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata:
        for key, value in _metadata().items():
            model.metadata_props.add(key=f"convscope.{key}", value=json.dumps(value))
    onnx.checker.check_model(model, full_check=True)
    return model


def write_repository(
    folder: Path, name: str = "tiny", version: str = "1", model: onnx.ModelProto | None = None
) -> Path:
    """Write a model as <folder>/<name>/<version>/model.onnx; returns the folder."""
    path = folder / name / version / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes((model or tiny_model()).SerializeToString())
    return folder


def replace_model(folder: Path, offset: float, name: str = "tiny", version: str = "1") -> None:
    """Put another model in the place of a version's in one step, as a deployment does."""
    path = folder / name / version / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(tiny_model(offset=offset).SerializeToString())
    beside.replace(path)


def activations(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """What the tiny model computes, in numpy: every layer, scores and probabilities."""
    pixels = images.transpose(0, 3, 1, 2).astype(np.float32)
    conv1 = np.einsum("nchw,oc->nohw", pixels, CONV1_WEIGHTS[:, :, 0, 0])
    conv1 += CONV1_BIASES[:, None, None]
    relu1 = np.maximum(conv1, 0)
    pool1 = relu1.reshape(-1, 2, 2, 2, 2, 2).max(axis=(3, 5))
    scores = pool1.reshape(len(images), 8) @ FC1_WEIGHTS + FC1_BIASES
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return {
        "conv1": conv1,
        "relu1": relu1,
        "pool1": pool1,
        "fc1": scores,
        "scores": scores,
        "probabilities": probabilities,
    }


def random_images(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Images that the tiny model takes: uint8, (count, 4, 4, 3)."""
    shape = (count, HEIGHT, WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _metadata() -> dict[str, object]:
    def layer(
        name: str, kind: str, tensor: str, notation: str, volume: tuple[int, int, int]
    ) -> dict[str, object]:
        depth, height, width = volume
        return {
            "name": name,
            "kind": kind,
            "tensor": tensor,
            "notation": notation,
            "volume": {"depth": depth, "height": height, "width": width},
            "weights": {"CONV": 6, "FC": 24}.get(kind, 0),
            "biases": {"CONV": 2, "FC": 3}.get(kind, 0),
            "multiply_adds": {"CONV": 96, "FC": 24}.get(kind, 0),
        }

    return {
        "format": 1,
        "name": "tiny",
        "description": "CONV 2 1x1, RELU, POOL 2x2, FC 3",
        "architecture": "INPUT(4x4x3) -> CONV(2, 1x1) -> RELU -> POOL(max, 2x2) -> FC(3)",
        "labels": LABELS,
        "normalization": {"mean": [0, 0, 0], "std": [1, 1, 1]},
        "layers": [
            layer("conv1", "CONV", "conv1", "CONV(2, 1x1)", (2, 4, 4)),
            layer("relu1", "RELU", "relu1", "RELU", (2, 4, 4)),
            layer("pool1", "POOL", "pool1", "POOL(max, 2x2)", (2, 2, 2)),
            layer("fc1", "FC", "scores", "FC(3)", (3, 1, 1)),
        ],
        "training_data": {"name": "nothing: the weights are written by hand"},
        "accuracy": {"top1": 0.25, "data": "nothing either"},
    }


def _value(name: str, dtype: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)
