"""Vectors as bars: one horizontal bar a class, or one thin upright bar a unit."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image

from convscope_client.drawing.ink import (
    ACCENT,
    BAR,
    FAINT,
    MUTED,
    PAPER,
    TEXT,
    Ink,
    shortened,
    text_width,
)

_SIZE = 19
_PLOT_HEIGHT = 132
_LABEL_WIDTH = 240
_LEAST_LABEL_WIDTH = 24


def draw_labelled_bars(
    labels: Sequence[str],
    values: npt.NDArray[np.float32],
    texts: Sequence[str],
    width: int,
    full_scale: float = 0.0,
    row_height: int = 30,
) -> Image.Image:
    """One horizontal bar for each value from a common zero line; the largest stands out.

    Args:
        labels: One for each value.
        values: (K,). Negative ones go to the left of the zero line.
        texts: The values as they are to be read, one for each.
        width: Of the image that is returned, in pixels.
        full_scale: The value of a bar over the full width; 0: the largest value.
        row_height: Of a bar with the space around it, in pixels.
    """
    image = Image.new("RGB", (width, len(values) * row_height), PAPER)
    ink = Ink(image)
    label_width = min(_LABEL_WIDTH, max(text_width(label, _SIZE) for label in labels))
    label_width = max(_LEAST_LABEL_WIDTH, ceil(label_width))
    text_space = ceil(max(text_width(text, _SIZE) for text in texts)) + 12
    left, right = label_width + 16, width - text_space
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = min(0.0, float(finite.min())), max(full_scale, float(finite.max()))
    if low < 0:
        left += text_space  # for the texts of negative values, to the left of their bars
    scale = (right - left) / (high - low) if high > low else 0.0
    zero = left - low * scale
    inset = row_height // 6
    best = int(np.argmax(finite))
    for index, (label, value, text) in enumerate(zip(labels, finite, texts, strict=True)):
        top = index * row_height
        baseline = top + row_height // 2 + 6
        color = TEXT if index == best else MUTED
        ink.text(label_width, baseline, shortened(label, _SIZE, label_width), _SIZE, color, "right")
        end = zero + float(value) * scale
        box = (
            round(min(zero, end)),
            top + inset,
            round(max(zero, end)) - 1,
            top + row_height - 1 - inset,
        )
        if box[2] >= box[0]:
            ink.draw.rectangle(box, ACCENT if index == best else BAR)
        if value < 0:
            ink.text(end - 8, baseline, text, _SIZE, color, "right")
        else:
            ink.text(end + 8, baseline, text, _SIZE, color)
    ink.draw.line((round(zero) - 1, 0, round(zero) - 1, image.height), MUTED)
    return image


def draw_units(values: npt.NDArray[np.float32], width: int) -> Image.Image:
    """One thin upright bar for each value from a common zero line, with unit numbers below.

    Args:
        values: (C,), at most width of them.
        width: Of the image that is returned, in pixels.
    """
    image = Image.new("RGB", (width, _PLOT_HEIGHT + 28), PAPER)
    ink = Ink(image)
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    scale = (_PLOT_HEIGHT - 1) / (high - low) if high > low else 0.0
    zero = round(high * scale)
    pitch = min(24.0, width / len(values))
    gap = 0 if pitch < 3 else 1 if pitch < 8 else 2
    ink.draw.rectangle((0, 0, round(len(values) * pitch) - 1, _PLOT_HEIGHT - 1), FAINT)
    for index, value in enumerate(finite):
        left, right = round(index * pitch), round((index + 1) * pitch) - 1 - gap
        end = zero - round(float(value) * scale)
        if end != zero:
            ink.draw.rectangle((left, min(zero, end), right, max(zero, end)), ACCENT)
    ink.draw.line((0, zero, round(len(values) * pitch) - 1, zero), MUTED)
    for number in range(0, len(values), _tick(len(values))):
        middle = max((number + 0.5) * pitch, text_width(str(number), 15) / 2)
        ink.text(middle, _PLOT_HEIGHT + 20, str(number), 15, MUTED, "center")
    return image


def _tick(count: int) -> int:
    """Every how many units a number is written: 1, 2, 5, 10, ... so that about 20 are."""
    step = 1
    while count / step > 24:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return step
