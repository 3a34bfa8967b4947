"""The `convscope.*` entries of a model file: written, and read back (docs/model-file.md)."""

import json
from collections.abc import Mapping
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


class MetadataError(ExportError):
    """A model file whose metadata is missing, or is not what docs/model-file.md says."""


def describe(network: Network, record: RunRecord) -> dict[str, Any]:
    """Metadata of a run's model, all of KEYS but `verification`, as JSON values.

    Args:
        network: The trained network.
        record: The run that trained it.
    """
    volume = network.architecture.input
    tensors = tensor_names(network)
    last = record.curve[-1]
    return {
        "format": FORMAT,
        "name": record.preset,
        "description": record.description,
        "architecture": record.architecture,
        "labels": record.labels,
        "input": {
            "name": INPUT_NAME,
            "height": volume.height,
            "width": volume.width,
            "channels": volume.depth,
            "dtype": "uint8",
            "layout": "NHWC",
            "color": "RGB",
            "range": [0, 255],
        },
        "normalization": record.normalization,
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
            for placed in network.architecture.layers
        ],
        "training_data": record.data,
        "accuracy": {
            "top1": record.accuracy["top1"],
            "images": record.accuracy["images"],
            "data": f"{record.data['name']}, test split",
            "method": "single forward",
            "per_class": record.accuracy["per_class"],
        },
        "seed": record.seed,
        "recipe": record.recipe,
        "training": {
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
        "versions": versions(),
        "git_revision": git_revision(),
        "quantization": None,
    }


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
