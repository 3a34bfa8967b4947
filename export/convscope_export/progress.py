"""What a training and a download look like in a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from convscope_export.training import EpochResult


class TrainingProgress:
    """Observer of a training: one bar for all of it, and a line for each epoch."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            transient=True,
            # Lines suffice where nobody watches.
            disable=not console.is_terminal,
        )
        self._task = TaskID(0)
        self._images = self._done = self._epochs = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def started(self, epochs_done: int, epochs: int, images: int) -> None:
        self._images, self._done, self._epochs = images, epochs_done, epochs
        if epochs_done == epochs:
            self._console.print(f"Already trained for {epochs} epochs: nothing to do.")
        elif epochs_done:
            self._console.print(f"Going on after epoch {epochs_done} of {epochs}.")
        self._task = self._progress.add_task(
            "",
            total=epochs * images,
            completed=epochs_done * images,
            epoch=f"{epochs_done}/{epochs}",
            figures="",
        )

    def stepped(self, images_done: int, loss: float, accuracy: float) -> None:
        speed = self._progress.tasks[0].speed or 0.0
        self._progress.update(
            self._task,
            completed=self._done * self._images + images_done,
            epoch=f"{self._done + 1}/{self._epochs}",
            figures=f"loss {loss:.3f}  accuracy {accuracy:.1%}  {speed:,.0f} images/s  left",
        )

    def finished_epoch(self, result: EpochResult) -> None:
        self._done = result.epoch
        self._progress.update(self._task, completed=self._done * self._images)
        width = len(str(self._epochs))
        self._console.print(
            f"epoch {result.epoch:{width}}/{self._epochs}  loss {result.loss:.3f}  "
            f"train {result.train_accuracy:.1%}  validation {result.validation_accuracy:.1%}  "
            f"{result.images_per_s:,.0f} images/s",
            highlight=False,
        )


@contextmanager
def download_progress(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """Bar for download.download(); it shows only once something is downloaded."""
    progress = Progress(
        TextColumn("downloading CIFAR-10"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )
    task: TaskID | None = None

    def report(done: int, total: int | None) -> None:
        nonlocal task
        if task is None:
            task = progress.add_task("", total=total)
            if console.is_terminal:
                progress.start()
            else:
                console.print("downloading CIFAR-10 (170 MB)")
        progress.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        if task is not None:
            progress.stop()
