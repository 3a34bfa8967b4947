"""Networks as ONNX graphs: pixels in, scores out, every activation under its layer's name."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import onnx
import torch
from torch import Tensor, nn

from convscope_export.errors import ExportError
from convscope_export.network import Network

# The opset that torch's exporter writes natively: no version conversion touches the
# graph, and every ONNX Runtime since 1.14 runs it.
OPSET = 18

INPUT_NAME = "images"
OUTPUT_NAMES = ("scores", "probabilities")
BATCH_AXIS = "N"


class ConversionError(ExportError):
    """torch cannot write the network as ONNX."""


class _Served(nn.Module):
    """The graph that is exported: normalisation, network and softmax in one."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        # (value / 255 - mean) / std as one multiplication and one addition per channel,
        # computed in double precision before they are rounded to float32.
        means = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)
        stds = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        self.register_buffer("scale", (1 / (255 * stds)).float())
        self.register_buffer("shift", (-means / stds).float())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # Transposed as bytes and cast afterwards: a quarter of the memory is moved.
        x = images.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        *taps, scores = self.network.activations(x).values()
        return scores, torch.softmax(scores, 1), *taps


def tensor_names(network: Network) -> dict[str, str]:
    """Name of the tensor that holds each layer's activation, by the layer's name.

    It is the layer's own name, but for the last layer's, which is `scores`.
    """
    names = [placed.name for placed in network.architecture.layers]
    return {name: name for name in names[:-1]} | {names[-1]: OUTPUT_NAMES[0]}


def convert(network: Network, mean: Sequence[float], std: Sequence[float]) -> onnx.ModelProto:
    """ONNX model of a network; its graph is as docs/model-file.md says, without metadata.

    Args:
        network: On the CPU, in eval mode.
        mean: Normalisation, per channel, on pixels scaled to 0-1.
        std: Normalisation, per channel, on pixels scaled to 0-1.

    Raises:
        ConversionError: torch cannot convert it.
    """
    volume = network.architecture.input
    taps = [name for name in tensor_names(network).values() if name not in OUTPUT_NAMES]
    # NOTE: torch.export specializes dimensions of size 1: trace with a batch of 2 or more.
    example = torch.zeros(2, volume.height, volume.width, volume.depth, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                _Served(network, mean, std).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                # As graph outputs, activations get these names and keep them.
                output_names=[*OUTPUT_NAMES, *taps],
                dynamic_shapes=({0: torch.export.Dim(BATCH_AXIS, min=1)},),
                external_data=False,
                verbose=False,
            )
    except ModuleNotFoundError:
        raise  # a missing extra is not the network's fault
    except Exception as error:  # the exporter raises what its passes raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"torch {torch.__version__} cannot export {network.architecture} to ONNX: {reason}"
        ) from error
    if program is None:
        raise ConversionError("torch.onnx.export returned no program. This is a bug.")
    model: onnx.ModelProto = program.model_proto
    _demote(model, taps)
    _tidy(model)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and notes about torchvision to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _demote(model: onnx.ModelProto, taps: Sequence[str]) -> None:
    """Turn graph outputs into inner tensors that keep their shapes in value_info."""
    outputs = {output.name: output for output in model.graph.output}
    made = {name for node in model.graph.node for name in node.output} - set(outputs)
    inner = [info for info in model.graph.value_info if info.name in made]
    del model.graph.value_info[:], model.graph.output[:]
    model.graph.output.extend(outputs[name] for name in OUTPUT_NAMES)
    model.graph.value_info.extend([*(outputs[name] for name in taps), *inner])


def _tidy(model: onnx.ModelProto) -> None:
    """Take out what the exporter noted down: it holds paths of the machine that exported."""
    model.graph.name = "convnet"
    model.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
        initializer.name = initializer.name.removeprefix("network.")
        initializer.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = node.output[0]
        node.input[:] = [name.removeprefix("network.") for name in node.input]
