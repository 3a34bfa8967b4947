"""The commands train, export and verify.

Imports nothing heavy: the help of every command must show where only the base is
installed, so torch, onnx and what imports them are imported inside the commands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from convscope_export.architecture import Architecture
from convscope_export.errors import ExportError
from convscope_export.presets import PRESETS

if TYPE_CHECKING:
    from convscope_export.model_file import Verified

# Every option also reads CONVSCOPE_<OPTION>.
_CONTEXT = {
    "auto_envvar_prefix": "CONVSCOPE",
    "help_option_names": ["-h", "--help"],
    "show_default": True,
}

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@contextmanager
def _reported() -> Iterator[None]:
    """Turn an expected failure into one line and exit status 1."""
    try:
        yield
    except ExportError as error:
        raise click.ClickException(str(error)) from error


@click.command(context_settings=_CONTEXT)
@click.argument("preset", type=click.Choice(list(PRESETS)))
@click.option(
    "--data",
    type=_DIRECTORY,
    show_envvar=True,
    help="Directory with CIFAR-10's .bin files, or its binary archive. Without it the archive "
    "is downloaded to the user's cache.",
)
@click.option(
    "-o",
    "--output",
    type=_DIRECTORY,
    help="Directory of the run: checkpoint.pt after every epoch, run.json at the end.  "
    "[default: runs/PRESET]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option(
    "--train-images",
    type=click.IntRange(min=1),
    help="Train on only so many images, for a quick look.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of every random draw.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu")
def train(
    preset: str,
    data: Path | None,
    output: Path | None,
    epochs: int | None,
    train_images: int | None,
    seed: int,
    device: str,
) -> None:
    """Train PRESET on CIFAR-10.

    A training that was stopped goes on where it stopped when the same command
    is given again.
    """
    import torch  # noqa: F401 - a missing extra is named before anything is downloaded

    from convscope_export import cifar10, run
    from convscope_export.progress import TrainingProgress, download_progress

    console = Console()
    chosen = PRESETS[preset]
    directory = output or Path("runs") / preset
    with _reported():
        with download_progress(console) as report:
            images = cifar10.load(data, on_progress=report)
        console.print(_architecture_table(chosen.architecture))
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


@click.command(context_settings=_CONTEXT)
@click.argument("run", type=_DIRECTORY)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    help="The model file; its card is written beside it.  [default: models/PRESET/1/model.onnx]",
)
def export(run: Path, output: Path | None) -> None:
    """Write the model of RUN, a directory that train filled, as ONNX.

    The file is written only after ONNX Runtime has computed what PyTorch does,
    every layer included.
    """
    from convscope_export import model_file

    console = Console()
    with _reported():
        with console.status("converting and verifying"):
            model = model_file.build(run)
        path = output or Path("models") / model.metadata["name"] / "1" / "model.onnx"
        card = model_file.write(model, path)
    console.print(_comparison_table(model, against="PyTorch"))
    console.print(f"Wrote {path} ({len(model.contents):,} bytes) and {card}", highlight=False)


@click.command(context_settings=_CONTEXT)
@click.argument("model", type=_FILE)
@click.option(
    "--run",
    type=_DIRECTORY,
    help="The run that the model was exported from: compare with PyTorch.",
)
def verify(model: Path, run: Path | None) -> None:
    """Check MODEL, an exported ONNX file.

    Without --run: that the graph is what its metadata says, and that it runs.
    """
    from convscope_export import model_file

    console = Console()
    with _reported(), console.status("verifying"):
        verified = model_file.check(model, run)
    console.print(_comparison_table(verified, against="PyTorch" if run else None))
    against = "computes what PyTorch does" if run else "is what its metadata says, and runs"
    console.print(f"{model} {against}.", highlight=False)


def _architecture_table(architecture: Architecture) -> Table:
    table = Table("layer", "notation", "output volume", caption=str(architecture))
    for column in ("weights", "biases", "multiply-adds"):
        table.add_column(column, justify="right")
    for layer in architecture.layers:
        counts = (layer.weights, layer.biases, layer.multiply_adds)
        table.add_row(
            layer.name,
            str(layer.layer),
            str(layer.volume),
            *(f"{n:,}" if n else "" for n in counts),
        )
    table.add_section()
    totals = (architecture.weights, architecture.biases, architecture.multiply_adds)
    table.add_row("total", "", "", *(f"{n:,}" for n in totals))
    return table


def _accuracy_table(accuracy: dict[str, Any]) -> Table:
    table = Table("class", box=None)
    table.add_column("top-1", justify="right")
    table.add_column("")
    for label, value in accuracy["per_class"].items():
        if value is not None:
            table.add_row(label, f"{value:.1%}", "█" * round(40 * value))
    return table


def _comparison_table(model: "Verified", against: str | None) -> Table:
    """Differences just measured, or the recorded ones where nothing was compared."""
    recorded = model.metadata["verification"]
    batches = ", ".join(map(str, recorded["batches"]))
    table = Table("tensor", "shape", caption=f"batches {batches}; tolerance {recorded['atol']:g}")
    header = f"max abs diff from {against}" if against else "max abs diff, recorded at export"
    table.add_column(header, justify="right")
    for comparison in model.comparisons:
        tensor = comparison.tensor
        measured = comparison.max_abs_diff
        difference = measured if against else recorded["max_abs_diff"].get(tensor)
        shape = ", ".join(("N", *map(str, comparison.shape)))
        table.add_row(tensor, f"({shape})", "" if difference is None else f"{difference:.1e}")
    return table
