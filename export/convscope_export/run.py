"""A training run: a directory that holds `checkpoint.pt` and, when it is finished, `run.json`."""

import dataclasses
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from convscope_export import checkpoint as checkpoints
from convscope_export.architecture import Architecture
from convscope_export.atomic_file import write_text
from convscope_export.cifar10 import LABELS, MEAN, STD, VALIDATION_IMAGES, Cifar10
from convscope_export.errors import ExportError
from convscope_export.evaluation import evaluate
from convscope_export.network import Network
from convscope_export.notation import NotationError, parse
from convscope_export.presets import Preset
from convscope_export.provenance import git_revision, versions
from convscope_export.training import Observer, Training, TrainingError, scores_of, trained_network

CHECKPOINT_NAME = "checkpoint.pt"
RECORD_NAME = "run.json"
_FORMAT = 1


class RunError(ExportError):
    """A directory that holds no finished run, or one that does not fit this version."""


@dataclass(frozen=True)
class RunRecord:
    """What a finished run was and what came of it; the contents of run.json.

    Attributes:
        preset: Name of the preset, or the one given to another architecture.
        description: One line for people.
        architecture: In ConvNet notation.
        recipe: The training's settings (recipe.Recipe).
        seed: Of weights and draws.
        arguments: The command's arguments, for people.
        data: name, description, sha256, train_images, validation_images, official.
        labels: Class labels.
        normalization: mean and std, per channel.
        device: "cpu" or "cuda", and the machine.
        threads: CPU threads that torch used; the result's last bits depend on it.
        curve: One training.EpochResult per epoch.
        seconds: Training time, all sittings.
        accuracy: On the test split: top1, images, per_class.
        versions: Of Python and packages.
        git_revision: Of the code that trained.
        format: Version of this record.
    """

    preset: str
    description: str
    architecture: str
    recipe: dict[str, Any]
    seed: int
    arguments: dict[str, Any]
    data: dict[str, Any]
    labels: list[str]
    normalization: dict[str, list[float]]
    device: str
    threads: int
    curve: list[dict[str, Any]]
    seconds: float
    accuracy: dict[str, Any]
    versions: dict[str, str]
    git_revision: str | None
    format: int = _FORMAT


def train(
    preset: Preset,
    data: Cifar10,
    directory: Path,
    observer: Observer,
    *,
    seed: int = 0,
    epochs: int | None = None,
    train_images: int | None = None,
    device: str = "cpu",
) -> RunRecord:
    """Train a preset, measure it once on the test split, and write the run's record.

    Goes on from the directory's checkpoint where there is one; does nothing where the
    same training is finished already.

    Args:
        preset: What to train.
        data: CIFAR-10; its last VALIDATION_IMAGES training images are held out.
        directory: Of the run; made if need be.
        observer: Told how it goes.
        seed: Of weights and draws.
        epochs: Instead of the recipe's.
        train_images: Use only so many of the first images, for a quick look.
        device: "cpu" or "cuda".

    Raises:
        TrainingError: The network cannot take CIFAR-10's pictures or tell its classes, or
            see training.Training.run.
        CheckpointError, FileWriteError: See training.Training.run.
    """
    _check_fits(preset.architecture)
    recipe = dataclasses.replace(preset.recipe, epochs=epochs or preset.recipe.epochs)
    available = len(data.train) - VALIDATION_IMAGES
    if train_images is not None and train_images > available:
        raise TrainingError(
            f"expected at most {available:,} training images (the last {VALIDATION_IMAGES:,} are "
            f"held out), got {train_images:,}"
        )
    training = Training(
        architecture=preset.architecture,
        recipe=recipe,
        seed=seed,
        train=data.train[: train_images or available],
        validation=data.train[available:],
        labels=LABELS,
        mean=MEAN,
        std=STD,
        data_sha256=data.sha256,
    )
    trained = training.run(directory / CHECKPOINT_NAME, observer, device)
    if (directory / RECORD_NAME).exists():
        try:
            # It was finished before: its record tells of the code that trained it, keep it.
            return load(directory)[0]
        except RunError:
            pass  # of an older training in this directory, or damaged
    accuracy = evaluate(scores_of(trained.network, MEAN, STD), data.test, LABELS)
    record = RunRecord(
        preset=preset.name,
        description=preset.description,
        architecture=str(preset.architecture),
        recipe=asdict(recipe),
        seed=seed,
        arguments={"epochs": epochs, "train_images": train_images, "seed": seed, "device": device},
        data={
            "name": data.copy.name,
            "description": data.copy.description,
            "sha256": data.sha256,
            "train_images": len(training.train),
            "validation_images": len(training.validation),
            "official": data.copy.official,
        },
        labels=list(LABELS),
        normalization={"mean": list(MEAN), "std": list(STD)},
        device=f"cuda ({torch.cuda.get_device_name()})"
        if device == "cuda"
        else f"cpu ({platform.machine()}, {os.cpu_count()} cores)",
        threads=torch.get_num_threads(),
        curve=[asdict(point) for point in trained.curve],
        seconds=round(trained.seconds, 1),
        accuracy=asdict(accuracy),
        versions=versions(),
        git_revision=git_revision(),
    )
    write_text(directory / RECORD_NAME, json.dumps(asdict(record), indent=2) + "\n")
    return record


def _check_fits(architecture: Architecture) -> None:
    """Refuse what CIFAR-10 cannot train; its square pictures are stretched to a square input."""
    volume = architecture.input
    if volume.depth != 3 or volume.height != volume.width:
        raise TrainingError(
            f"training on CIFAR-10: expected a square input of depth 3, such as 32x32x3 or "
            f"64x64x3, got {volume}"
        )
    if architecture.classes != len(LABELS):
        raise TrainingError(
            f"training on CIFAR-10: expected a last layer of {len(LABELS)} class scores, got "
            f"{architecture.classes}"
        )


def load(directory: Path) -> tuple[RunRecord, Network]:
    """Read a finished run: its record, and the trained network on the CPU, in eval mode.

    Raises:
        RunError: There is no run, it is not finished, or its record is damaged or of
            another version of convscope.
        CheckpointError: The checkpoint cannot be read.
    """
    path, checkpoint_path = directory / RECORD_NAME, directory / CHECKPOINT_NAME
    if not checkpoint_path.is_file():
        raise RunError(
            f"{directory}: expected a training run, {CHECKPOINT_NAME} is missing; make one with "
            f"convscope train PRESET -o {directory}"
        )
    state = checkpoints.load(checkpoint_path)
    if not path.is_file():
        epochs = state.fingerprint.get("recipe", {}).get("epochs", "?")
        raise RunError(
            f"{directory}: expected a finished run, got one after epoch {state.epoch} of {epochs}; "
            "run the same convscope train again, it goes on from there"
        )
    try:
        record = RunRecord(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path}: expected the record of a run, got a file that cannot be read as one "
            f"({error}); run convscope train again, it writes it anew"
        ) from error
    if record.format != _FORMAT:
        raise RunError(
            f"{directory}: expected a run of format {_FORMAT}, got format {record.format}; "
            "train it again"
        )
    recorded = (
        *(record.architecture, record.recipe, record.seed, record.data.get("sha256")),
        record.recipe.get("epochs"),
    )
    fingerprint = state.fingerprint
    keys = ("architecture", "recipe", "seed", "data")
    if recorded != (*(fingerprint.get(key) for key in keys), state.epoch):
        raise RunError(
            f"{directory}: {RECORD_NAME} and {CHECKPOINT_NAME} are of different trainings; "
            f"delete {RECORD_NAME} and run the same convscope train again"
        )
    try:
        architecture = parse(record.architecture)
    except NotationError as error:
        raise RunError(
            f"{directory}: expected an architecture in the notation of this version, got "
            f"{record.architecture}: {error.reason}; train it again"
        ) from error
    try:
        network = trained_network(architecture, state)
    except RuntimeError as error:
        raise RunError(
            f"{checkpoint_path} does not hold the weights of {record.architecture}; train it again"
        ) from error
    return record, network
