"""The command verify."""

from pathlib import Path

import click
from rich.console import Console

from convscope_export.cli.comparison_table import comparison_table
from convscope_export.cli.options import CONTEXT, DIRECTORY, FILE, reported


@click.command(context_settings=CONTEXT)
@click.argument("model", type=FILE)
@click.option(
    "--run",
    type=DIRECTORY,
    help="The run that the model was exported from: compare with PyTorch.",
)
def verify(model: Path, run: Path | None) -> None:
    """Check MODEL, an exported ONNX file.

    Without --run: that the graph is what its metadata says, and that it runs.
    """
    from convscope_export import model_file

    console = Console()
    with reported(), console.status("verifying"):
        verified = model_file.check(model, run)
    console.print(comparison_table(verified, against="PyTorch" if run else None))
    against = "computes what PyTorch does" if run else "is what its metadata says, and runs"
    console.print(f"{model} {against}.", highlight=False)
