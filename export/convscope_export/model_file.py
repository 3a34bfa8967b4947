"""The finished model file: converted, described, verified, and only then written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError

from convscope_export import metadata as metadata_props
from convscope_export import run
from convscope_export.architecture import Architecture
from convscope_export.atomic_file import write_bytes, write_text
from convscope_export.cifar10 import MEAN, STD
from convscope_export.errors import ExportError
from convscope_export.model_card import card
from convscope_export.network import Network, he_initialize
from convscope_export.onnx_export import convert
from convscope_export.verification import (
    Comparison,
    summary,
    torch_reference,
    verify,
)


class ModelFileError(ExportError):
    """A file that is no ONNX model."""


@dataclass(frozen=True)
class Verified:
    """A model whose checks all passed.

    Attributes:
        contents: The file, metadata included.
        metadata: By keys without prefix.
        comparisons: One per tensor.
    """

    contents: bytes
    metadata: dict[str, Any]
    comparisons: list[Comparison]


def build(directory: Path) -> Verified:
    """Convert and verify the model of a finished run; writes nothing.

    Raises:
        RunError, CheckpointError: The run cannot be read or is not finished (run.load).
        ConversionError: torch cannot convert the network.
        VerificationError: The model does not compute what PyTorch does.
    """
    record, network = run.load(directory)
    return _built(network, metadata_props.describe(network, record))


def build_untrained(architecture: Architecture, name: str, seed: int = 0) -> Verified:
    """Convert and verify a network with random weights (network.he_initialize).

    It serves like any other, for measurements and for looking at shapes; its metadata and
    its card say that it is untrained. Writes nothing.

    Args:
        architecture: The network.
        name: Of the model.
        seed: Of the weights: the same one gives the same weights.

    Raises:
        ConversionError: torch cannot convert the network.
        VerificationError: The model does not compute what PyTorch does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(architecture)
        he_initialize(network)
    depth = architecture.input.depth
    mean, std = (MEAN, STD) if depth == len(MEAN) else ((0.5,) * depth, (0.5,) * depth)
    normalization = {"mean": list(mean), "std": list(std)}
    return _built(
        network.eval(), metadata_props.describe_untrained(network, name, normalization, seed)
    )


def _built(network: Network, metadata: dict[str, Any]) -> Verified:
    mean, std = metadata["normalization"]["mean"], metadata["normalization"]["std"]
    model = convert(network, mean, std)
    comparisons = verify(model, metadata, torch_reference(network, mean, std))
    metadata["verification"] = summary(metadata, comparisons)
    metadata_props.attach(model, metadata)
    # deterministic: the same run and versions make the same bytes.
    return Verified(model.SerializeToString(deterministic=True), metadata, comparisons)


def card_path(path: Path) -> Path:
    """Where the card of a model goes.

    In a model repository (`<name>/<version>/model.onnx`) it is the model's README.md;
    elsewhere it is named for the file, so that no other README.md is written over.
    """
    if path.parent.name.isdecimal():
        return path.parent.parent / "README.md"
    return path.with_suffix(".md")


def write(model: Verified, path: Path) -> Path:
    """Write the model and its card, each in one step; returns the card's path.

    Raises:
        FileWriteError: One of them cannot be written.
    """
    write_bytes(path, model.contents)
    beside = card_path(path)
    write_text(beside, card(model.metadata, len(model.contents)))
    return beside


def check(path: Path, directory: Path | None = None) -> Verified:
    """Verify a model file that is already there.

    Args:
        path: The file.
        directory: The run that it was exported from; None checks all that can be
            checked without PyTorch.

    Raises:
        ModelFileError: It cannot be read as an ONNX model.
        MetadataError: It has no convscope metadata.
        RunError, CheckpointError: The run cannot be read.
        VerificationError: A check failed.
    """
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"{path}: expected an ONNX model, got a file that cannot be read: {error.strerror}"
        ) from error
    try:
        model = onnx.load_model_from_string(contents)
    except DecodeError as error:
        raise ModelFileError(
            f"{path}: expected an ONNX model, got {len(contents):,} bytes of something else; "
            "export it again"
        ) from error
    metadata = metadata_props.read(model)
    reference = None
    if directory is not None:
        record, network = run.load(directory)
        if record.architecture != metadata["architecture"]:
            raise ModelFileError(
                f"{path}: expected the model of {directory}, {record.architecture}, "
                f"got {metadata['architecture']}; give the run it was exported from"
            )
        normalization = record.normalization
        reference = torch_reference(network, normalization["mean"], normalization["std"])
    return Verified(contents, metadata, verify(model, metadata, reference))
