"""What a verification measured, tensor by tensor, as a table for a terminal."""

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from convscope_export.model_file import Verified


def comparison_table(model: "Verified", against: str | None) -> Table:
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
