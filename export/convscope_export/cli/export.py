"""The command export."""

from pathlib import Path

import click
from rich.console import Console

from convscope_export import architecture_page
from convscope_export.cli.comparison_table import comparison_table
from convscope_export.cli.options import CONTEXT, FILE, chosen_preset, name_option, reported
from convscope_export.notation import is_notation
from convscope_export.presets import PRESETS


@click.command(context_settings=CONTEXT)
@click.argument("source", metavar="[RUN|NOTATION]", required=False)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Instead of RUN or NOTATION: the preset's architecture, untrained.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="The model file; its card is written beside it.  [default: models/NAME/1/model.onnx]",
)
@name_option
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
        chosen_preset(preset or source or "", name) if preset or is_notation(source or "") else None
    )
    if untrained is None and name is not None:
        raise click.UsageError("--name: a run has its name already; give it to convscope train")
    from convscope_export import model_file

    console = Console()
    with reported():
        with console.status("converting and verifying"):
            if untrained is not None:
                model = model_file.build_untrained(untrained.architecture, untrained.name, seed)
            else:
                model = model_file.build(Path(source or ""))
        path = output or Path("models") / model.metadata["name"] / "1" / "model.onnx"
        card = model_file.write(model, path)
    console.print(comparison_table(model, against="PyTorch"))
    console.print(f"Wrote {path} ({len(model.contents):,} bytes) and {card}", highlight=False)
    if untrained is not None:
        console.print("It is untrained: its weights are random, its answers mean nothing.")
        architecture_page.show_warnings(untrained.architecture, console)
