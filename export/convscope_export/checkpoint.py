"""Everything a training needs to go on after a kill as if nothing had happened."""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convscope_export.atomic_file import write_atomically
from convscope_export.errors import ExportError


class CheckpointError(ExportError):
    """A checkpoint that cannot be read."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint of another architecture, recipe, seed or data."""


@dataclass(frozen=True)
class Checkpoint:
    """State after a whole epoch.

    Attributes:
        fingerprint: What the training is of: changing any of it makes another training.
        epoch: Epochs finished.
        weights: The network's state_dict.
        average: That of the average of the weights (torch's AveragedModel); empty for none.
        optimizer: The optimizer's state_dict.
        generator: State of the generator that orders and augments the images.
        curve: One dict per finished epoch (training.EpochResult).
        seconds: Time spent training so far, over all sittings.
    """

    fingerprint: dict[str, Any]
    epoch: int
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    generator: Tensor
    curve: list[dict[str, Any]]
    seconds: float

    def save(self, path: Path) -> None:
        """Write beside and rename: a kill leaves the epoch before. Raises FileWriteError."""
        contents = {field.name: getattr(self, field.name) for field in fields(self)}
        write_atomically(path, lambda file: torch.save(contents, file))


def load(path: Path, fingerprint: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint; nothing in it is run.

    Args:
        path: An existing file.
        fingerprint: What the training must be of; None takes any.

    Raises:
        CheckpointError: It cannot be read, or is no checkpoint.
        CheckpointMismatchError: It is of another training; says what differs.
    """
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {path}: {error.strerror}; check its permissions"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickles of another kind; they fail below
            contents = torch.load(file, map_location="cpu", weights_only=True)
        checkpoint = Checkpoint(**contents)
    except Exception as error:  # torch raises whatever its readers meet in the bytes
        raise CheckpointError(
            f"cannot read the checkpoint {path}: it is damaged, or no checkpoint; "
            "delete it to train from the start"
        ) from error
    if fingerprint is not None and checkpoint.fingerprint != fingerprint:
        differences = [
            f"{key}: expected {fingerprint.get(key)}, got {checkpoint.fingerprint.get(key)}"
            for key in sorted({*fingerprint, *checkpoint.fingerprint})
            if fingerprint.get(key) != checkpoint.fingerprint.get(key)
        ]
        raise CheckpointMismatchError(
            f"{path} is of another training ({'; '.join(differences)}); "
            "give another directory with -o, or delete this one"
        )
    return checkpoint
