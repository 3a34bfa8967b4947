"""Labelled bars for a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.bar import Bar
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_LONGEST_LABEL = 28
# So that the charts of several pictures begin at one place: "automobile" is CIFAR-10's longest.
_SHORTEST_LABEL = 10
_WIDEST_BAR = 48


@dataclass(frozen=True, slots=True)
class Row:
    """One bar: its label, how long it is (0-1), and what stands behind it."""

    label: str
    fraction: float
    text: str


def bar_chart(rows: Sequence[Row], width: int, *, highlight: bool = False) -> Padding:
    """Bars with labels before and numbers behind them.

    Args:
        rows: From top to bottom.
        width: Of the terminal, in characters.
        highlight: Whether the first row stands out.
    """
    longest = max((len(row.label) for row in rows), default=0)
    label_width = min(_LONGEST_LABEL, max(_SHORTEST_LABEL, longest))
    behind = max((len(row.text) for row in rows), default=0)
    bar_width = max(4, min(_WIDEST_BAR, width - label_width - behind - 7))
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(width=label_width, no_wrap=True, overflow="ellipsis")
    table.add_column(width=bar_width)
    table.add_column(justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        strong = highlight and index == 0
        color = "green" if strong else "cyan"
        table.add_row(
            Text(row.label, "bold" if strong else ""),
            Bar(1.0, 0.0, min(1.0, max(0.0, row.fraction)), width=bar_width, color=color),
            Text(row.text, "bold" if strong else ""),
        )
    return Padding(table, (0, 0, 0, 2), expand=False)
