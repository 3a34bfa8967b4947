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
    native = info.native
    if native and array.dtype == native.dtype and array.shape[1:] == native.shape:
        odd_count = array.size - np.count_nonzero(np.isfinite(cast("ImageArray", array)))
        if odd_count:
            raise InvalidRequest(
                f"expected finite numbers, got {odd_count} that are NaN or infinite"
            )
        return cast("ImageArray", array)
    shape = (info.height, info.width, info.channels)
    if array.dtype != np.uint8 or array.shape[1:] != shape:
        expected = f"pixels of dtype uint8 and shape {_batch_shape(shape)}"
        if native:
            expected += f", or {native.dtype} {_batch_shape(native.shape)} as the graph takes it"
        raise InvalidRequest(
            f"expected {expected}, got {array.dtype.name} {array.shape}: "
            "send the picture as a file to have it resized"
        )
    return cast("ImageArray", array)


def _batch_shape(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})"
