"""The `convscope.*` entries of a model file: written, and read back (docs/model-file.md)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from convscope_export.errors import ExportError
from convscope_export.network import Network
from convscope_export.onnx_export import INPUT_NAME, tensor_names
from convscope_export.provenance import git_revision, versions
from convscope_export.run import RunRecord

PREFIX = "convscope."
FORMAT = 1

KEYS = (
    *("format", "name", "description", "architecture", "labels", "input", "normalization"),
    *("layers", "training_data", "accuracy", "seed", "recipe", "training", "versions"),
    *("git_revision", "quantization", "verification"),
)

# By number of channels; any other number has no name.
_COLORS = {1: "gray", 3: "RGB"}


class MetadataError(ExportError):
    """A model file whose metadata is missing, or is not what docs/model-file.md says."""


def describe(network: Network, record: RunRecord) -> dict[str, Any]:
    """Metadata of a run's model, all of KEYS but `verification`, as JSON values.

    Args:
        network: The trained network.
        record: The run that trained it.
    """
    last = record.curve[-1]
    return _described(
        network,
        name=record.preset,
        description=record.description,
        labels=record.labels,
        normalization=record.normalization,
        training_data=record.data,
        accuracy={
            "top1": record.accuracy["top1"],
            "images": record.accuracy["images"],
            "data": f"{record.data['name']}, test split",
            "method": "single forward",
            "per_class": record.accuracy["per_class"],
        },
        seed=record.seed,
        recipe=record.recipe,
        training={
            "epochs": len(record.curve),
            "seconds": record.seconds,
            "device": record.device,
            "threads": record.threads,
            "final_loss": last["loss"],
            "train_accuracy": last["train_accuracy"],
            "validation_accuracy": last["validation_accuracy"],
            "git_revision": record.git_revision,
            "versions": record.versions,
        },
    )


def describe_untrained(
    network: Network, name: str, normalization: Mapping[str, Sequence[float]], seed: int
) -> dict[str, Any]:
    """Metadata of a network with random weights, all of KEYS but `verification`.

    `recipe` and `training` are null, and so is the accuracy. The labels are the class
    indices: a class's name would promise something.

    Args:
        network: As it was drawn.
        name: Of the model.
        normalization: mean and std, per channel, on pixels scaled to 0-1.
        seed: That the weights were drawn with.
    """
    return _described(
        network,
        name=name,
        description="Untrained: random weights, its answers mean nothing",
        labels=[str(index) for index in range(network.architecture.classes)],
        normalization=normalization,
        training_data={
            "name": "nothing: random weights",
            "description": "the network was never trained",
            "sha256": None,
            "train_images": 0,
            "validation_images": 0,
            "official": False,
        },
        accuracy={
            "top1": None,
            "images": 0,
            "data": "",
            "method": "single forward",
            "per_class": {},
        },
        seed=seed,
        recipe=None,
        training=None,
    )


def _described(network: Network, **told: Any) -> dict[str, Any]:
    """What is told, and what the network says itself, in the order of KEYS."""
    architecture, tensors = network.architecture, tensor_names(network)
    volume = architecture.input
    found = {
        **told,
        "format": FORMAT,
        "architecture": str(architecture),
        "input": {
            "name": INPUT_NAME,
            "height": volume.height,
            "width": volume.width,
            "channels": volume.depth,
            "dtype": "uint8",
            "layout": "NHWC",
            "color": _COLORS.get(volume.depth),
            "range": [0, 255],
        },
        "layers": [
            {
                "name": placed.name,
                "kind": placed.layer.kind,
                "tensor": tensors[placed.name],
                "notation": str(placed.layer),
                "volume": {
                    "depth": placed.volume.depth,
                    "height": placed.volume.height,
                    "width": placed.volume.width,
                },
                "weights": placed.weights,
                "biases": placed.biases,
                "multiply_adds": placed.multiply_adds,
            }
            for placed in architecture.layers
        ],
        "versions": versions(),
        "git_revision": git_revision(),
        "quantization": None,
    }
    return {key: found[key] for key in KEYS if key in found}


def attach(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Put metadata, by its keys without prefix, into a model in place of what it had."""
    onnx.helper.set_model_props(
        model,
        {
            # No NaN: it is no JSON, and other readers refuse it.
            PREFIX + key: json.dumps(value, ensure_ascii=False, allow_nan=False)
            for key, value in metadata.items()
        },
    )


def read(model: onnx.ModelProto) -> dict[str, Any]:
    """Metadata of a model, by its keys without prefix.

    Raises:
        MetadataError: A key is missing, a value is no JSON, or the format is another.
    """
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        if entry.key.startswith(PREFIX):
            try:
                found[entry.key.removeprefix(PREFIX)] = json.loads(entry.value)
            except ValueError as error:
                raise MetadataError(
                    f"metadata {entry.key}: expected JSON, got {entry.value[:40]!r}; "
                    "export the model again"
                ) from error
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise MetadataError(
            f"expected the metadata of a convscope model, {PREFIX}{missing[0]} is missing "
            f"({len(KEYS) - len(missing)} of {len(KEYS)} keys are there); export the model again"
        )
    if found["format"] != FORMAT:
        raise MetadataError(
            f"metadata: expected {PREFIX}format {FORMAT}, got {found['format']}; "
            "use the convscope version that wrote the file"
        )
    return found
