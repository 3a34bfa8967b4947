"""Made-up pictures that a ConvNet can learn, in memory and in CIFAR-10's file layout."""

import dataclasses
from pathlib import Path

import numpy as np

from convscope_export.architecture import Architecture
from convscope_export.cifar10 import Cifar10, Images, unrecognised
from convscope_export.cifar10_files import FILES, RECORDS_PER_FILE
from convscope_export.layers import Conv, FullyConnected, Pool, Relu, Repeat, Volume
from convscope_export.recipe import Recipe
from convscope_export.training import EpochResult

SMALL = Architecture(
    Volume(depth=3, height=8, width=8),
    (Repeat((Repeat((Conv(4, 3), Relu())), Pool("max", 2))), FullyConnected(10)),
)
QUICK = Recipe(
    epochs=3,
    batch_size=20,
    learning_rate=1e-2,
    warmup=0.1,
    weight_decay=1e-3,
    label_smoothing=0.1,
    flip=True,
    shift=1,
)

# Everything that a recipe can ask for, as that of the preset cifar10 does.
FULL = dataclasses.replace(
    QUICK,
    learning_rate=0.05,
    initialization="he",
    cutout=3,
    optimizer="sgd",
    batch_norm=True,
    average=0.9,
    precision="bfloat16",
)


def pictures(count: int, side: int = 32, seed: int = 0) -> Images:
    """Noise around a colour and a slope that the label decides."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 10)
    colours = np.random.default_rng(99).integers(40, 200, (10, 3, 1, 1))
    slope = np.linspace(-30, 30, side)[None, None, None, :] * (labels[:, None, None, None] % 2)
    noise = rng.integers(-20, 20, (count, 3, side, side))
    pixels = np.clip(colours[labels] + slope + noise, 0, 255).astype(np.uint8)
    return Images(pixels, labels.astype(np.int64))


def tiny_data(train: int = 5_600, test: int = 200) -> Cifar10:
    """Data set of 32x32 pictures; the last 5,000 training pictures are held out as ever."""
    return Cifar10(
        train=pictures(train, seed=1),
        test=pictures(test, seed=2),
        copy=unrecognised("0" * 64),
        sha256="0" * 64,
    )


def write_layout(folder: Path) -> Path:
    """Write the six files, 10,000 records each; returns the folder."""
    folder.mkdir(parents=True)
    some = pictures(500)
    rows = np.arange(RECORDS_PER_FILE) % len(some)
    records = np.empty((RECORDS_PER_FILE, 3073), np.uint8)
    records[:, 0] = some.labels[rows]
    records[:, 1:] = some.pixels[rows].reshape(RECORDS_PER_FILE, -1)
    for name in FILES:
        records.tofile(folder / name)
    return folder


class Recorder:
    """Observer of a training that keeps what it is told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.starts: list[tuple[int, int, int]] = []
        self.steps: list[tuple[int, float, float]] = []
        self.epochs: list[EpochResult] = []

    def started(self, epochs_done: int, epochs: int, images: int) -> None:
        self.starts.append((epochs_done, epochs, images))

    def stepped(self, images_done: int, loss: float, accuracy: float) -> None:
        self.steps.append((images_done, loss, accuracy))

    def finished_epoch(self, result: EpochResult) -> None:
        self.epochs.append(result)
        if result.epoch == self.stop_after:
            raise KeyboardInterrupt
