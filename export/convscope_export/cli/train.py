"""The command train."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from convscope_export import architecture_page
from convscope_export.cli.options import CONTEXT, DIRECTORY, chosen_preset, name_option, reported
from convscope_export.presets import PRESETS


@click.command(context_settings=CONTEXT, epilog=f"Presets: {', '.join(PRESETS)}.")
@click.argument("architecture", metavar="PRESET|NOTATION")
@click.option(
    "--data",
    type=DIRECTORY,
    show_envvar=True,
    help="Directory with CIFAR-10's .bin files, or its binary archive. Without it the archive "
    "is downloaded to the user's cache.",
)
@click.option(
    "-o",
    "--output",
    type=DIRECTORY,
    help="Directory of the run: checkpoint.pt after every epoch, run.json at the end.  "
    "[default: runs/NAME]",
)
@name_option
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option(
    "--train-images",
    type=click.IntRange(min=1),
    help="Train on only so many images, for a quick look.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of every random draw.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
def train(
    architecture: str,
    data: Path | None,
    output: Path | None,
    name: str | None,
    epochs: int | None,
    train_images: int | None,
    seed: int,
    device: str,
) -> None:
    """Train a preset or an architecture in ConvNet NOTATION on CIFAR-10.

    NOTATION starts with INPUT and is put in quotes; docs/notation.md tells it, convscope
    describe shows what it stands for. The pictures are stretched to the size of the input.

    A training that was stopped goes on where it stopped when the same command
    is given again.
    """
    chosen = chosen_preset(architecture, name)
    import torch  # noqa: F401 - a missing extra is named before anything is downloaded

    from convscope_export import cifar10, run
    from convscope_export.progress import TrainingProgress, download_progress

    console = Console()
    directory = output or Path("runs") / chosen.name
    with reported():
        with download_progress(console) as report:
            images = cifar10.load(data, on_progress=report)
        architecture_page.show_layers(chosen.architecture, console)
        architecture_page.show_warnings(chosen.architecture, console)
        console.print(f"Data: [bold]{images.copy.name}[/bold]: {images.copy.description}.")
        with TrainingProgress(console) as progress:
            try:
                record = run.train(
                    chosen,
                    images,
                    directory,
                    progress,
                    seed=seed,
                    epochs=epochs,
                    train_images=train_images,
                    device=device,
                )
            except KeyboardInterrupt:
                console.print("Stopped: the same command goes on after the last whole epoch.")
                raise
    console.print(_accuracy_table(record.accuracy))
    console.print(
        f"Top-1 [bold]{record.accuracy['top1']:.2%}[/bold] on {record.accuracy['images']:,} test "
        f"images of {record.data['name']}, single forward; trained in {record.seconds:.0f} s.",
        highlight=False,
    )
    console.print(f"Next: convscope export {directory}", highlight=False)


def _accuracy_table(accuracy: dict[str, Any]) -> Table:
    table = Table("class", box=None)
    table.add_column("top-1", justify="right")
    table.add_column("")
    for label, value in accuracy["per_class"].items():
        if value is not None:
            table.add_row(label, f"{value:.1%}", "█" * round(40 * value))
    return table
