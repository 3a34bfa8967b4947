"""A model that takes long enough for requests to wait behind it."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support.tiny_models import tiny_model

_SIDE, _CHANNELS = 512, 24


def slow_model() -> onnx.ModelProto:
    """The tiny model behind convolutions of 2.7 billion multiply-adds an image."""
    model = tiny_model(metadata=False)
    graph = model.graph
    scale = _SIDE // 4
    constants = {
        "up": np.array([1, 1, scale, scale], np.float32),
        "widen.w": np.zeros((_CHANNELS, 3, 3, 3), np.float32),
        "deep.w": np.zeros((_CHANNELS, _CHANNELS, 3, 3), np.float32),
        "narrow.w": np.zeros((3, _CHANNELS, 1, 1), np.float32),
    }
    slow = [
        helper.make_node("Resize", ["pixels", "", "up"], ["large"], mode="nearest"),
        helper.make_node("Conv", ["large", "widen.w"], ["wide"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["wide", "deep.w"], ["deep1"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["deep1", "deep.w"], ["deep2"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["deep2", "narrow.w"], ["narrow"]),
        helper.make_node(
            "MaxPool", ["narrow"], ["slowed"], kernel_shape=[scale] * 2, strides=[scale] * 2
        ),
    ]
    nodes = list(graph.node)
    at = next(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    nodes[at].input[0] = "slowed"
    del graph.node[:]
    graph.node.extend([*nodes[:at], *slow, *nodes[at:]])
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return model
