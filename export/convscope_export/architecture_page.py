"""An architecture in a terminal: the table that a lecturer would draw, and what to make of it."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convscope_export import rules_of_thumb
from convscope_export.architecture import Architecture, PlacedLayer
from convscope_export.description import VALUE_BYTES, activations_bytes, padding, stride, window
from convscope_export.heads import heads
from convscope_export.layers import GlobalAveragePool, Pool, Volume

# Between columns, beside the one character that the table itself needs, and whether stride and
# padding have names or, as in the volume formula, letters. The roomiest that fits is shown.
_LAYOUTS = ((2, True), (1, True), (1, False), (0, False))


def show(
    architecture: Architecture, console: Console, name: str = "", description: str = ""
) -> None:
    """Print the whole page: notation, layers, heads, warnings.

    Args:
        architecture: What it is about.
        console: Where to.
        name: Of the preset; empty where it has none.
        description: One line for people, below the name.
    """
    if name:
        console.print(Text(name, "bold"))
    if description:
        console.print(Text(f"{description}."))
    console.print(_broken_at_arrows(architecture, console.width))
    console.print()
    show_layers(architecture, console)
    console.print()
    console.print(_heads(architecture))
    show_warnings(architecture, console)


def show_warnings(architecture: Architecture, console: Console) -> None:
    """Print the rules of thumb that it breaks after an empty line; nothing if there is none."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for line in rules_of_thumb.broken(architecture):
        table.add_row(Text("warning:", "yellow"), Text(line))
    if table.row_count:
        console.print()
        console.print(table)


def show_layers(architecture: Architecture, console: Console) -> None:
    """Print the table of the layers, with its totals."""
    tables = [_layers(architecture, gap, names=names) for gap, names in _LAYOUTS]
    unbounded = console.options.update_width(10_000)
    widths = [console.measure(table, options=unbounded).maximum for table in tables]
    fitting = (table for table, width in zip(tables, widths, strict=True) if width <= console.width)
    console.print(next(fitting, tables[-1]))


def _broken_at_arrows(architecture: Architecture, width: int) -> Text:
    """The notation, each line as long as fits, broken between the outermost elements."""
    lines = [f"INPUT({architecture.input})"]
    for item in architecture.items:
        longer = f"{lines[-1]} -> {item}"
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(f"  -> {item}")
    return Text("\n".join(lines), "dim")


def _grid(**settings: object) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        header_style="dim",
        footer_style="bold",
        **settings,  # type: ignore[arg-type]
    )


def _layers(architecture: Architecture, gap: int, *, names: bool) -> Table:
    table = _grid(padding=(0, gap, 0, 0), show_footer=True)
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("filter" if names else "F", no_wrap=True)
    table.add_column("stride" if names else "S", justify="right", no_wrap=True)
    table.add_column("padding" if names else "P", justify="right", no_wrap=True)
    table.add_column("output", justify="right", no_wrap=True)
    for header, total in (
        ("weights", _number(architecture.weights)),
        ("biases", _number(architecture.biases)),
        ("multiply-adds", _number(architecture.multiply_adds)),
        ("memory", _memory(activations_bytes(architecture))),
    ):
        table.add_column(header, total, justify="right", no_wrap=True)
    table.add_row(Text("input", "dim"), "", "", "", _volume(architecture.input))
    for placed in architecture.layers:
        table.add_row(
            Text(placed.name, "bold"),
            _window(placed),
            _setting(stride(placed)),
            _setting(padding(placed)),
            _volume(placed.volume),
            _number(placed.weights),
            _number(placed.biases),
            _number(placed.multiply_adds),
            _memory(placed.volume.values * VALUE_BYTES),
        )
    return table


def _heads(architecture: Architecture) -> Table:
    found = heads(architecture)
    table = _grid(padding=(0, 1, 0, 0))
    table.add_column(f"head over {_volume(found.input)}")
    table.add_column("", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("multiply-adds", justify="right", no_wrap=True)
    for head in (found.fc, found.gap):
        table.add_row(
            Text(head.notation, "bold" if head.present else ""),
            Text("" if head.present else "instead", "dim"),
            _number(head.parameters),
            _number(head.multiply_adds),
        )
    table.add_row(
        Text("global average pooling takes", "dim"),
        "",
        Text(_ratio(found.fc.parameters, found.gap.parameters), "dim"),
        Text(_ratio(found.fc.multiply_adds, found.gap.multiply_adds), "dim"),
    )
    return table


def _ratio(fc: int, gap: int) -> str:
    if gap == 0:
        return "none"
    if fc == gap:
        return "as many"
    return f"1/{_factor(fc / gap)}" if fc > gap else f"{_factor(gap / fc)} times as many"


def _factor(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _window(placed: PlacedLayer) -> str:
    size = window(placed)
    if size is None:
        return ""
    text = "×".join(map(str, size))
    match placed.layer:
        case Pool(method=method):
            return f"{method} {text}"
        case GlobalAveragePool():
            return f"average {text}"
        case _:
            return text


def _volume(volume: Volume) -> str:
    return str(volume).replace("x", "×")


def _setting(value: int | None) -> str:
    return "" if value is None else str(value)


def _number(count: int) -> str:
    return f"{count:,}" if count else "-"


def _memory(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size >= 100 else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"
