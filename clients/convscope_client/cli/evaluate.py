"""convscope evaluate: the accuracy of a model, measured through the server."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convscope_client.cli.failure import reported
from convscope_client.cli.options import (
    SETTINGS,
    address_option,
    json_option,
    model_option,
    model_version_option,
    timeout_option,
)
from convscope_client.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from convscope_client.client import Client
    from convscope_client.models import Model


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and on what.

    Attributes:
        model: Its name.
        version: Its version.
        data: The file that holds the images.
        sha256: Of that file, so that two numbers can be told to be of the same pixels.
        images: How many there are.
        correct: How many got their own class as the most probable one.
        accuracy: The share of them, 0-1.
        accuracy_by_class: The same for the images of each class, by label.
        seconds: From the first request to the last answer.
        images_per_s: Images by that time.
    """

    model: str
    version: str
    data: str
    sha256: str
    images: int
    correct: int
    accuracy: float
    accuracy_by_class: dict[str, float]
    seconds: float
    images_per_s: float


@click.command(context_settings=SETTINGS)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_envvar=True,
    help="The directory with CIFAR-10's binary version, or the one it was unpacked into.",
)
@click.option(
    "--batch-size", default=64, type=click.IntRange(1, 10_000), help="Images in a request."
)
@click.option(
    "--in-flight", default=4, type=click.IntRange(1, 256), help="Requests at the same time."
)
@json_option
@model_option
@model_version_option
@address_option
@timeout_option(30.0)
def evaluate(
    data: Path,
    batch_size: int,
    in_flight: int,
    as_json: bool,
    model: str,
    model_version: str,
    address: str,
    timeout_s: float,
) -> None:
    """Measure a model's top-1 accuracy on the CIFAR-10 test split, through the server.

    Each image is classified once, by a single forward pass. The images are those in
    the directory, read as they are; their SHA-256 is printed beside the result.
    """
    from convscope_client.cifar10 import find_test_file, read_test_file
    from convscope_client.client import Client

    with reported(), Client(address) as client:
        path = find_test_file(data)
        images, labels = read_test_file(path)
        described = client.describe(model, model_version, timeout_s=timeout_s)
        _check_fits(described)
        started_s = time.perf_counter()
        predictions = _predict(client, described, images, batch_size, in_flight, timeout_s)
        seconds = time.perf_counter() - started_s
    evaluation = _evaluation(described, path, labels, predictions, seconds)
    if as_json:
        import json

        click.echo(json.dumps(asdict(evaluation), ensure_ascii=False))
    else:
        _show(evaluation)


def _check_fits(model: "Model") -> None:
    from convscope_client.cifar10 import CLASS_COUNT, SIDE

    if not model.labels:
        raise InvalidRequest(
            f"expected a model that is loaded, got {model.name} {model.version}: "
            f"{model.state}, {model.state_reason}"
        )
    shape = model.input
    got = (shape.height, shape.width, shape.channels, len(model.labels))
    if got != (SIDE, SIDE, 3, CLASS_COUNT):
        raise InvalidRequest(
            f"expected a model for CIFAR-10: {SIDE} x {SIDE} pixels, 3 channels, {CLASS_COUNT} "
            f"classes, got {model.name}: {shape.height} x {shape.width}, {shape.channels} channels "
            f"and {len(model.labels)} classes"
        )


def _predict(
    client: "Client",
    model: "Model",
    images: "npt.NDArray[np.uint8]",
    batch_size: int,
    in_flight: int,
    timeout_s: float,
) -> "npt.NDArray[np.int64]":
    """The most probable class of each image, int64, (N,)."""
    import numpy as np
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from convscope_client.cli.together import in_order

    def predict(start: int) -> list[int]:
        result = client.classify(
            images[start : start + batch_size],
            top_k=1,
            model=model.name,
            version=model.version,
            timeout_s=timeout_s,
        )
        return [classification.top[0].index for classification in result.classifications]

    predictions: list[int] = []
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with progress:
        task = progress.add_task(model.name, total=len(images))
        for batch in in_order(client, predict, range(0, len(images), batch_size), in_flight):
            predictions += batch
            progress.advance(task, len(batch))
    return np.array(predictions)


def _evaluation(
    model: "Model",
    path: Path,
    labels: "npt.NDArray[np.uint8]",
    predictions: "npt.NDArray[np.int64]",
    seconds: float,
) -> Evaluation:
    import hashlib

    correct = predictions == labels
    return Evaluation(
        model=model.name,
        version=model.version,
        data=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        images=len(labels),
        correct=int(correct.sum()),
        accuracy=float(correct.mean()),
        accuracy_by_class={
            label: float(correct[labels == index].mean())
            for index, label in enumerate(model.labels)
            if (labels == index).any()
        },
        seconds=seconds,
        images_per_s=len(labels) / seconds,
    )


def _show(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.text import Text

    from convscope_client.cli.bar_chart import Row, bar_chart

    console = Console(highlight=False)
    rows = [
        Row(label, accuracy, f"{accuracy:.1%}")
        for label, accuracy in evaluation.accuracy_by_class.items()
    ]
    console.print(Text(f"{evaluation.model} {evaluation.version}", "bold"))
    console.print(bar_chart(rows, console.width))
    console.print()
    console.print(
        Text.assemble(
            "accuracy ",
            (f"{evaluation.accuracy:.2%}", "bold"),
            f"  {evaluation.correct:,} of {evaluation.images:,} images, a single forward pass each",
        )
    )
    console.print(
        Text(f"{evaluation.images_per_s:,.0f} images/s  {evaluation.seconds:.1f} s", "dim")
    )
    console.print(Text(evaluation.data, "dim"), overflow="fold")
    console.print(Text(f"sha256 {evaluation.sha256}", "dim"), overflow="fold")
