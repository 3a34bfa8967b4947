"""Numbers to colours."""

from typing import Literal

import numpy as np
import numpy.typing as npt

ColormapName = Literal["viridis", "gray"]

# matplotlib's viridis (Nathaniel Smith and Stefan van der Walt, CC0;
# matplotlib/_cm_listed.py), every 15th of its 256 colours. In between they are
# interpolated: at most 5 of 255 off in any channel.
_VIRIDIS = bytes.fromhex(
    "440154 481769 472a7a 433d84 3d4e8a 355e8d 2e6d8e 297b8e 23898e"
    "1f978b 21a585 2eb37c 46c06f 65cb5e 89d548 b0dd2f d8e219 fde725"
)
_GRAY = bytes.fromhex("000000 ffffff")
_ANCHORS: dict[ColormapName, bytes] = {"viridis": _VIRIDIS, "gray": _GRAY}


def colormap(name: ColormapName) -> npt.NDArray[np.uint8]:
    """A colour map's 256 colours, uint8 (256, 3), RGB, from the lowest value to the highest."""
    anchors = np.frombuffer(_ANCHORS[name], np.uint8).reshape(-1, 3)
    positions = np.linspace(0, 255, len(anchors))
    columns = [np.interp(np.arange(256), positions, column) for column in anchors.T]
    return np.rint(np.stack(columns, axis=1)).astype(np.uint8)


def colorize(
    values: npt.NDArray[np.float32], low: float, high: float, colors: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """The colour of each value, uint8 with the shape of values and a last axis of 3 (RGB).

    Args:
        values: Any shape. Those that are not finite get the colour of the nearest end;
            NaN that of low.
        low: Gets the first colour.
        high: Gets the last colour. If it is not above low, everything gets the first.
        colors: uint8 (256, 3), as colormap() returns.
    """
    span = high - low if high > low else np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values.astype(np.float64) - low) / span * 255
    indices = np.nan_to_num(np.clip(scaled, 0, 255), nan=0.0)
    result: npt.NDArray[np.uint8] = colors[np.rint(indices).astype(np.uint8)]
    return result
