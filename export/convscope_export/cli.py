"""The commands train, export and verify.

Imports nothing heavy: the help of every command must show where only the base is
installed, so torch, onnx and what imports them are imported inside the commands.
"""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from convscope_export import architecture_page
from convscope_export.errors import ExportError
from convscope_export.notation import is_notation, parse
from convscope_export.presets import DEFAULT_RECIPE, PRESETS, Preset

if TYPE_CHECKING:
    from convscope_export.model_file import Verified

# Every option also reads CONVSCOPE_<OPTION>.
_CONTEXT = {
    "auto_envvar_prefix": "CONVSCOPE",
    "help_option_names": ["-h", "--help"],
    "show_default": True,
}

# What a model is called that is given in notation, and without --name.
_UNNAMED = "convnet"

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


# A folder's name in a model repository, and a model's name on a server.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _checked_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(
            f"expected letters, digits, '.', '_' and '-', such as my-net, got {value!r}"
        )
    return value


_name_option = click.option(
    "--name",
    callback=_checked_name,
    help=f"Of the model.  [default: the preset's; {_UNNAMED} for NOTATION]",
)


@contextmanager
def _reported() -> Iterator[None]:
    """Turn an expected failure into one line and exit status 1."""
    try:
        yield
    except ExportError as error:
        raise click.ClickException(str(error)) from error


@click.command(context_settings=_CONTEXT, epilog=f"Presets: {', '.join(PRESETS)}.")
@click.argument("architecture", metavar="PRESET|NOTATION")
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
    "[default: runs/NAME]",
)
@_name_option
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
    chosen = _chosen(architecture, name)
    import torch  # noqa: F401 - a missing extra is named before anything is downloaded

    from convscope_export import cifar10, run
    from convscope_export.progress import TrainingProgress, download_progress

    console = Console()
    directory = output or Path("runs") / chosen.name
    with _reported():
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


def _chosen(text: str, name: str | None) -> Preset:
    """The preset of that name, or the architecture of that notation with the default recipe."""
    if is_notation(text):
        with _reported():
            architecture = parse(text)
        chosen = Preset(_UNNAMED, "A ConvNet for CIFAR-10", architecture, DEFAULT_RECIPE)
    elif text in PRESETS:
        chosen = PRESETS[text]
    else:
        raise click.UsageError(
            f"expected a preset ({', '.join(PRESETS)}) or notation that starts with INPUT, "
            f"got {text!r}"
        )
    return dataclasses.replace(chosen, name=name or chosen.name)


@click.command(context_settings=_CONTEXT)
@click.argument("source", metavar="[RUN|NOTATION]", required=False)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Instead of RUN or NOTATION: the preset's architecture, untrained.",
)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    help="The model file; its card is written beside it.  [default: models/NAME/1/model.onnx]",
)
@_name_option
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of random weights.")
def export(
    source: str | None, preset: str | None, output: Path | None, name: str | None, seed: int
) -> None:
    """Write a model as ONNX: of RUN, a directory that train filled, or untrained.

    Of NOTATION (it starts with INPUT; put it in quotes) or of --preset the weights are
    random: such a model serves, says that it is untrained, and its answers mean nothing.

    The file is written only after ONNX Runtime has computed what PyTorch does,
    every layer included.
    """
    if (source is None) == (preset is None):
        raise click.UsageError("expected RUN, NOTATION or --preset NAME, one of them")
    untrained = (
        _chosen(preset or source or "", name) if preset or is_notation(source or "") else None
    )
    if untrained is None and name is not None:
        raise click.UsageError("--name: a run has its name already; give it to convscope train")
    from convscope_export import model_file

    console = Console()
    with _reported():
        with console.status("converting and verifying"):
            if untrained is not None:
                model = model_file.build_untrained(untrained.architecture, untrained.name, seed)
            else:
                model = model_file.build(Path(source or ""))
        path = output or Path("models") / model.metadata["name"] / "1" / "model.onnx"
        card = model_file.write(model, path)
    console.print(_comparison_table(model, against="PyTorch"))
    console.print(f"Wrote {path} ({len(model.contents):,} bytes) and {card}", highlight=False)
    if untrained is not None:
        console.print("It is untrained: its weights are random, its answers mean nothing.")
        architecture_page.show_warnings(untrained.architecture, console)


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
