"""Type and colours of a drawing: what the page's parts share."""

from functools import cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from convscope_client.models import TIMES

PAPER = (255, 255, 255)
TEXT = (24, 28, 33)
MUTED = (104, 112, 122)
FAINT = (226, 229, 233)
BAR = (176, 190, 206)
ACCENT = (33, 108, 168)

_Font = ImageFont.FreeTypeFont
# The built-in face has no letters beyond basic Latin. For labels that do, the
# first of these that the machine has.
_FALLBACKS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")


class Ink:
    """Writes on one image."""

    def __init__(self, image: Image.Image) -> None:
        """Write on this image, an RGB one."""
        self.image = image
        self.draw = ImageDraw.Draw(image)

    def text(
        self,
        left: float,
        baseline: float,
        text: str,
        size: int,
        color: tuple[int, int, int] = TEXT,
        align: Literal["left", "center", "right"] = "left",
    ) -> float:
        """Write one line; returns where it ends on the right.

        Args:
            left: Where the line begins; with align, where its middle or its right end is.
            baseline: On which the letters stand, in pixels from the top.
            text: What to write.
            size: Of the type, in pixels.
            color: RGB.
            align: What left means.
        """
        x = left - {"left": 0.0, "center": 0.5, "right": 1.0}[align] * text_width(text, size)
        for index, part in enumerate(text.split(TIMES)):
            if index:
                self._times(x, baseline, size, color)
                x += _times_width(size)
            face = _face(part, size)
            self.draw.text((round(x), baseline), part, color, face, anchor="ls")
            x += face.getlength(part)
        return x

    def _times(self, left: float, baseline: float, size: int, color: tuple[int, int, int]) -> None:
        # The built-in face has no multiplication sign. ImageDraw's lines have hard
        # edges, so it is drawn large and reduced.
        scale = 8
        side = max(4, round(size * 0.36))
        mask = Image.new("L", (side * scale, side * scale))
        pen = ImageDraw.Draw(mask)
        inset, far = scale, (side - 1) * scale - 1
        stroke = max(scale, round(size * 0.075 * scale))
        pen.line((inset, inset, far, far), 255, stroke)
        pen.line((inset, far, far, inset), 255, stroke)
        x = round(left + (_times_width(size) - side) / 2)
        y = round(baseline - size * 0.34 - side / 2)
        self.image.paste(color, (x, y, x + side, y + side), mask.reduce(scale))


def text_width(text: str, size: int) -> float:
    """Width of a line, in pixels."""
    parts = text.split(TIMES)
    return sum(_face(part, size).getlength(part) for part in parts) + _times_width(size) * (
        len(parts) - 1
    )


def shortened(text: str, size: int, width: float) -> str:
    """The text, cut and ended with three dots if it is wider than width pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _times_width(size: int) -> float:
    return size * 0.5


def _face(text: str, size: int) -> _Font:
    if all(map(_in_built_in_face, text)):
        return _built_in(size)
    return _fallback(size)


@cache
def _built_in(size: int) -> _Font:
    face = ImageFont.load_default(size)
    # Pillow's wheels all have FreeType; without it there is only a bitmap of one size.
    assert isinstance(face, _Font), "expected a Pillow with FreeType, got one without"  # noqa: S101
    return face


@cache
def _fallback(size: int) -> _Font:
    for name in _FALLBACKS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:  # not on this machine
            continue
    return _built_in(size)


@cache
def _in_built_in_face(character: str) -> bool:
    # A face draws one and the same box for all that it does not have.
    face = _built_in(24)
    return character == " " or bytes(face.getmask(character)) != bytes(face.getmask("\uffff"))
