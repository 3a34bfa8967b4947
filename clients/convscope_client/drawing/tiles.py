"""Channels of a layer as tiles: their layout on a page, and their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image

from convscope_client.drawing.colormap import colorize
from convscope_client.drawing.ink import MUTED, PAPER, Ink

_NUMBER_SIZE = 15
_NUMBER_HEIGHT = 20
_ROW_GAP = 12
_LEAST_GAP = 8
_MOST_GAP = 20
_LARGEST_TILE = 200
_MOST_COLUMNS = (16, 12, 10, 8, 6)


@dataclass(frozen=True, slots=True)
class Grid:
    """Where tiles go.

    Attributes:
        columns: Tiles in a full row.
        enlarge: Pixels along each side of one activation; at least 1.
        reduce: Activations along each side of one pixel; above 1 only if enlarge is 1.
        tile: Width and height of a tile, in pixels.
        pitch: From a tile's left edge to the next one's, in pixels.
    """

    columns: int
    enlarge: int
    reduce: int
    tile: tuple[int, int]
    pitch: float

    def rows(self, count: int) -> int:
        """Rows that this many tiles take."""
        return ceil(count / self.columns)

    def height(self, count: int) -> int:
        """Height of this many tiles with their numbers, in pixels."""
        rows = self.rows(count)
        return rows * (self.tile[1] + _NUMBER_HEIGHT) + (rows - 1) * _ROW_GAP


def fit_grid(count: int, map_height: int, map_width: int, width: int) -> Grid:
    """The grid for count maps of this size on a page of this width.

    An activation becomes a whole number of pixels, so that tiles stay crisp;
    maps too large for that are reduced by a whole number.
    """
    columns = _columns(count, map_width, width)
    cell = (width - (columns - 1) * _LEAST_GAP) // columns
    side = max(map_height, map_width)
    enlarge = max(1, min(cell // map_width, _LARGEST_TILE // side))
    reduce = 1 if map_width <= cell else ceil(map_width / cell)
    tile = (ceil(map_width * enlarge / reduce), ceil(map_height * enlarge / reduce))
    # A reduced tile can be much narrower than its cell: then more fit into a row.
    fitting = max(columns, (width + _LEAST_GAP) // (tile[0] + _LEAST_GAP))
    columns = ceil(count / ceil(count / fitting))
    gap = (width - columns * tile[0]) / (columns - 1) if columns > 1 else 0.0
    return Grid(columns, enlarge, reduce, tile, tile[0] + min(gap, _MOST_GAP))


def draw_tiles(
    maps: npt.NDArray[np.float32],
    channels: Sequence[str],
    grid: Grid,
    limits: tuple[float, float],
    colors: npt.NDArray[np.uint8],
    width: int,
) -> Image.Image:
    """The maps as tiles with their channel above each.

    Args:
        maps: (C, H, W).
        channels: What to write above each, (C,).
        grid: Where they go.
        limits: Values of the first and the last colour.
        colors: uint8 (256, 3).
        width: Of the image that is returned, in pixels.
    """
    image = Image.new("RGB", (width, grid.height(len(maps))), PAPER)
    ink = Ink(image)
    for index, (values, channel) in enumerate(zip(maps, channels, strict=True)):
        row, column = divmod(index, grid.columns)
        left = round(column * grid.pitch)
        top = row * (grid.tile[1] + _NUMBER_HEIGHT + _ROW_GAP)
        ink.text(left, top + _NUMBER_SIZE - 1, channel, _NUMBER_SIZE, MUTED)
        image.paste(_tile(values, grid, limits, colors), (left, top + _NUMBER_HEIGHT))
    return image


def _tile(
    values: npt.NDArray[np.float32],
    grid: Grid,
    limits: tuple[float, float],
    colors: npt.NDArray[np.uint8],
) -> Image.Image:
    if grid.reduce > 1:  # the mean, before the colours: a mean of colours is no value's colour
        values = np.asarray(Image.fromarray(values).reduce(grid.reduce))
    tile = Image.fromarray(colorize(values, *limits, colors))
    return tile.resize(grid.tile, Image.Resampling.NEAREST)


def _columns(count: int, map_width: int, width: int) -> int:
    # Small maps look well at 64 pixels; large ones need more to be told apart.
    least_cell = min(max(map_width, 64), 128)
    for most in _MOST_COLUMNS:
        if (width - (most - 1) * _LEAST_GAP) // most >= least_cell:
            break
    rows = ceil(count / most)
    return ceil(count / rows)  # rows as equal as they can be
