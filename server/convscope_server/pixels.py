"""Raw pixels that a request holds: do they fit its model?"""

from typing import cast

import numpy as np
import numpy.typing as npt

from convscope_server.backend import ImageArray, ModelInfo
from convscope_server.errors import InvalidRequest


def checked_images(array: npt.NDArray[np.generic], info: ModelInfo) -> ImageArray:
    """Pixels that fit a model: uint8, (N, H, W, C), of its size.

    Or, of a model whose own input is of floats, that input: of its dtype and shape, finite.

    Raises:
        InvalidRequest: They are of another dtype or shape, or not finite.
    """
    check_fits(array.dtype, array.shape, info)
    images = cast("ImageArray", array)
    if images.dtype != np.uint8:
        odd_count = images.size - np.count_nonzero(np.isfinite(images))
        if odd_count:
            raise InvalidRequest(
                f"expected finite numbers, got {odd_count} that are NaN or infinite"
            )
    return images


def check_fits(dtype: np.dtype[np.generic], shape: tuple[int, ...], info: ModelInfo) -> None:
    """Whether pixels of this dtype and shape, (N, …), fit a model; raises InvalidRequest if not."""
    native = info.native
    if native and dtype == native.dtype and shape[1:] == native.shape:
        return
    own = (info.height, info.width, info.channels)
    if dtype != np.uint8 or shape[1:] != own:
        expected = f"pixels of dtype uint8 and shape {_batch_shape(own)}"
        if native:
            expected += f", or {native.dtype} {_batch_shape(native.shape)} as the graph takes it"
        raise InvalidRequest(
            f"expected {expected}, got {dtype.name} {shape}: "
            "send the picture as a file to have it resized"
        )


def _batch_shape(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})"
