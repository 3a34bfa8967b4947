"""One layer on the page: a title, a colour bar, and its channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from convscope_client.drawing.bars import draw_labelled_bars, draw_units
from convscope_client.drawing.ink import MUTED, PAPER, TEXT, Ink, shortened
from convscope_client.drawing.tiles import draw_tiles, fit_grid

_NAME_SIZE = 26
_NOTE_SIZE = 19
TITLE_HEIGHT = 44
_COLOR_BAR = (240, 14)
_NUMBER_WIDTH = 68
# More classes than this are told apart by number, not by label.
_MOST_LABELLED_BARS = 30
# Percent of a layer's values beyond either end of its colours. One bright
# activation would otherwise leave all others in the dark.
_TAIL = 0.5


@dataclass(frozen=True, slots=True)
class Style:
    """What all sections of a page share.

    Attributes:
        width: Of a section, in pixels.
        colors: uint8 (256, 3), from the lowest value to the highest.
        max_tiles: Most channels drawn of a layer.
    """

    width: int
    colors: npt.NDArray[np.uint8]
    max_tiles: int


def draw_section(
    name: str,
    notes: Sequence[str],
    values: npt.NDArray[np.float32],
    channels: Sequence[str],
    labels: Sequence[str],
    style: Style,
) -> Image.Image:
    """One layer's activations for one image, as wide as the style says.

    Args:
        name: The layer's.
        notes: Beside the name, such as its notation and its volume.
        values: (C, H, W), or (C,) for a layer without height and width.
        channels: What to call each of the C channels.
        labels: One for each value of a vector that is drawn by label; else empty.
        style: What all sections share.
    """
    if values.ndim == 3 and values.shape[1:] == (1, 1):
        values = values[:, 0, 0]
    if values.ndim == 1:
        body, drawn = _vector(values, labels, style)
        limits = None
    else:
        drawn = min(len(values), style.max_tiles)
        limits = _limits(values)
        height, width = values.shape[1:]
        grid = fit_grid(drawn, height, width, style.width)
        body = draw_tiles(values[:drawn], channels[:drawn], grid, limits, style.colors, style.width)
        if grid.reduce > 1:
            notes = [*notes, f"shown at 1/{grid.reduce} of its size"]
    left_out = len(values) - drawn
    page_height = TITLE_HEIGHT + body.height + (30 if left_out else 0)
    image = Image.new("RGB", (style.width, page_height), PAPER)
    ink = Ink(image)
    draw_title(ink, name, notes)
    right = style.width
    if limits is not None:
        _draw_color_bar(ink, limits, style)
        right -= _COLOR_BAR[0] + 2 * _NUMBER_WIDTH + 16
    if values.ndim == 3 or drawn > _MOST_LABELLED_BARS:
        extremes = f"min {values.min():.3g}   max {values.max():.3g}"
        ink.text(right, 26, extremes, _NOTE_SIZE, MUTED, "right")
    image.paste(body, (0, TITLE_HEIGHT))
    if left_out:
        ink.text(0, page_height - 6, f"... {left_out:,} more channels", _NOTE_SIZE, MUTED)
    return image


def draw_title(ink: Ink, name: str, notes: Sequence[str], left: int = 0) -> None:
    """A section's title at the top of an image: its name, and notes in a lighter colour."""
    x = ink.text(left, 26, shortened(name, _NAME_SIZE, 480), _NAME_SIZE)
    for note in notes:
        x = ink.text(x + 18, 26, note, _NOTE_SIZE, MUTED)


def _vector(
    values: npt.NDArray[np.float32], labels: Sequence[str], style: Style
) -> tuple[Image.Image, int]:
    """The picture of a vector, and how many of its values are in it."""
    if len(values) == len(labels) <= _MOST_LABELLED_BARS:
        texts = [f"{value:.2f}" for value in values]
        return draw_labelled_bars(labels, values, texts, style.width), len(values)
    drawn = min(len(values), style.width)
    return draw_units(values[:drawn], style.width), drawn


def _limits(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Values of the first and the last colour; the first is 0 unless a value is below it."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = (float(end) for end in np.percentile(finite, (_TAIL, 100 - _TAIL)))
    least, largest = float(finite.min()), float(finite.max())
    low = 0.0 if least >= 0 else low
    # Where nearly all values are equal, those that are not are what there is to see.
    return (low, high) if high > low else (min(0.0, least), largest)


def _draw_color_bar(ink: Ink, limits: tuple[float, float], style: Style) -> None:
    width, height = _COLOR_BAR
    # At one place in all sections, however long their numbers are.
    left = style.width - _NUMBER_WIDTH - width
    ramp = Image.fromarray(style.colors[np.newaxis]).resize((width, height))
    ink.image.paste(ramp, (left, 26 - height))
    low, high = (f"{limit:.3g}" for limit in limits)
    ink.text(left - 10, 26, low, _NOTE_SIZE, TEXT, "right")
    ink.text(left + width + 10, 26, high, _NOTE_SIZE)
