"""convscope describe: a model as the table that a lecturer would draw."""

import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

import click

from convscope_client.cli.failure import Failure, reported
from convscope_client.cli.options import (
    SETTINGS,
    address_option,
    json_option,
    model_version_option,
    timeout_option,
)
from convscope_client.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.table import Table

    from convscope_client.models import Model

# Who describes what no server holds: the package that owns architectures registers, for
# "notation" and "preset", a function of the text and as_json that prints it.
_GROUP = "convscope.describe"
# No model's name has an arrow, and a name is not a volume.
_NOTATION = re.compile(r"^\s*INPUT\b|->|→")

# Activations are float32.
_ACTIVATION_BYTES = 4
# Between columns, in characters, beside the one that the table itself needs.
_GAPS = (2, 1, 0)
# Of a network with more layers, these many from both ends are shown.
_MOST_LAYERS = 48
_LAST_LAYERS = 12


class _Describer(Protocol):
    def __call__(self, text: str, *, as_json: bool) -> None: ...


def _describer(kind: str) -> _Describer:
    for entry_point in entry_points(group=_GROUP, name=kind):
        describer: _Describer = entry_point.load()
        return describer
    raise Failure(
        f"this installation of convscope cannot describe a {kind}: install it again",
        ExitCode.USAGE,
    )


@click.command(context_settings=SETTINGS)
@click.argument("model", default="", metavar="[MODEL|NOTATION]")
@click.option("--preset", metavar="NAME", help="Describe a preset's architecture.")
@click.option("--all", "all_layers", is_flag=True, help="Show all layers, however many there are.")
@json_option
@model_version_option
@address_option
@timeout_option()
def describe(
    model: str,
    preset: str | None,
    all_layers: bool,
    as_json: bool,
    model_version: str,
    address: str,
    timeout_s: float,
) -> None:
    """Show what a MODEL of the server is made of; without a name, its default model.

    Layer by layer: the output volume (width, height, depth), weights, biases,
    multiply-adds and the memory of the activations for one image. Then what it was
    trained on, how accurate it is, and where it runs.

    NOTATION, such as 'INPUT(32x32x3) -> CONV(12, 3x3) -> RELU -> FC(10)', and the
    architecture of --preset are described without a server: their layers and volumes,
    what a head by global average pooling would take, and which rules of thumb they break.
    """
    if preset is not None:
        if model:
            raise click.UsageError(f"expected MODEL or --preset, got both: {model}, {preset}")
        _describer("preset")(preset, as_json=as_json)
    elif _NOTATION.search(model):
        _describer("notation")(model, as_json=as_json)
    else:
        from convscope_client.client import Client

        with reported(), Client(address) as client:
            described = client.describe(model, model_version, timeout_s=timeout_s)
        if as_json:
            import json
            from dataclasses import asdict

            click.echo(json.dumps(asdict(described), ensure_ascii=False, indent=2))
        else:
            _show(described, all_layers)


def _show(model: "Model", all_layers: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    state = model.state + (f": {model.state_reason}" if model.state_reason else "")
    console.print(Text.assemble((f"{model.name} {model.version}", "bold"), (f"  {state}", "dim")))
    if not (model.labels or model.layers):
        return  # it is not loaded: nothing more is known of it
    for line in (model.description, model.architecture):
        if line:
            console.print(Text(line))
    console.print()
    # The roomiest table that the terminal can take.
    tables = [_layers(model, gap, all_layers) for gap in _GAPS]
    unbounded = console.options.update_width(10_000)
    widths = [console.measure(table, options=unbounded).maximum for table in tables]
    fitting = (table for table, width in zip(tables, widths, strict=True) if width <= console.width)
    console.print(next(fitting, tables[-1]))
    console.print()
    facts = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for name, fact in _facts(model):
        facts.add_row(Text(name, "dim"), Text(fact))
    console.print(facts)


def _layers(model: "Model", gap: int, all_layers: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from convscope_client.models import Volume

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
        pad_edge=False,
        show_edge=False,
        show_footer=True,
        header_style="dim",
        footer_style="bold",
    )
    shape = model.input
    volumes = [layer.volume for layer in model.layers]
    activations = sum(volume.activation_count for volume in volumes)
    total_weights = sum(layer.weight_count for layer in model.layers)
    total_biases = sum(layer.bias_count for layer in model.layers)
    # A tensor's name, which is what a foreign model's layers have, may be longer than a line.
    table.add_column("layer", "total", overflow="fold")
    table.add_column("", overflow="fold")
    table.add_column("output", justify="right", no_wrap=True)
    numbers = {
        "weights": (total_weights, [layer.weight_count for layer in model.layers]),
        "biases": (total_biases, [layer.bias_count for layer in model.layers]),
        "multiply-adds": (
            model.multiply_add_count,
            [layer.multiply_add_count for layer in model.layers],
        ),
    }
    # A file without metadata tells none of them.
    told = {name: counts for name, (total, counts) in numbers.items() if total or any(counts)}
    for name in told:
        table.add_column(name, _number(numbers[name][0]), justify="right", no_wrap=True)
    table.add_column("memory", _memory(activations), justify="right", no_wrap=True)
    table.add_row("input", "", str(Volume(shape.channels, shape.height, shape.width)))
    left_out = range(0)
    if len(model.layers) > _MOST_LAYERS and not all_layers:
        left_out = range(_MOST_LAYERS - _LAST_LAYERS, len(model.layers) - _LAST_LAYERS)
    for index, layer in enumerate(model.layers):
        if index in left_out:
            if index == left_out.start:
                table.add_row("...", f"{len(left_out)} more: --all shows them")
            continue
        table.add_row(
            Text(layer.name, "bold"),
            Text(layer.notation or layer.kind),
            str(layer.volume),
            *(_number(counts[index]) for counts in told.values()),
            _memory(layer.volume.activation_count),
        )
    return table


def _facts(model: "Model") -> list[tuple[str, str]]:
    accuracy = ""
    if model.accuracy is not None:
        accuracy = f"{model.accuracy:.2%}, top-1 by a single forward pass"
        accuracy += f", on {model.accuracy_data}" if model.accuracy_data else ""
    facts = [
        ("labels", ", ".join(model.labels) if len(model.labels) <= 20 else _many(model.labels)),
        ("parameters", f"{model.parameter_count:,}" if model.parameter_count else ""),
        ("trained on", model.training_data),
        ("accuracy", accuracy),
        ("runs on", f"{model.execution_provider}, up to {model.max_batch_size} images at once"),
    ]
    return [(name, fact) for name, fact in facts if fact]


def _many(labels: tuple[str, ...]) -> str:
    return f"{len(labels):,}: {', '.join(labels[:8])}, ..."


def _number(count: int) -> str:
    return f"{count:,}" if count else "-"


def _memory(activation_count: int) -> str:
    size = float(activation_count * _ACTIVATION_BYTES)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"
