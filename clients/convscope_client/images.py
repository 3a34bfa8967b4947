"""What a caller may pass as an image, and how it travels.

Picture files travel as they are: the server decodes, so that every client sees
the same pixels. Arrays travel as pixels.
"""

import os
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import numpy as np
import numpy.typing as npt

from convscope_client.errors import InvalidRequest

if TYPE_CHECKING:
    from PIL import Image

PixelArray = npt.NDArray[np.uint8] | npt.NDArray[np.float16] | npt.NDArray[np.float32]
# A picture file's path or its bytes, a PIL image, or pixels: uint8 (H, W, C), C 3 for
# RGB and 1 for grey, 0-255, of the model's size; (N, H, W, C) for N images at once.
# Or float32 or float16 as the model's own input is (ImageInput.float_input).
ImageLike: TypeAlias = Union[
    str, os.PathLike[str], bytes, bytearray, memoryview, "Image.Image", PixelArray
]

_EXPECTED = (
    "a path, the bytes of a picture file, a PIL image, or a numpy array of uint8 (H, W, 3) or "
    "(H, W, 1), one dimension more for several, or a list of these"
)
_DTYPES = (np.dtype(np.uint8), np.dtype(np.float16), np.dtype(np.float32))
# Transparency in a form that PNG lacks, and one that it has.
_ALPHA_MODES = {"RGBa": "RGBA", "La": "LA", "PA": "RGBA"}
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def read_images(images: ImageLike | Sequence[ImageLike]) -> PixelArray | list[bytes]:
    """What travels for these images: pixels of N images, or N picture files.

    Paths, bytes and PIL images may stand in one list; arrays only among arrays
    of one shape, since a request carries pixels or files.

    Raises:
        InvalidRequest: A file is missing, unreadable or empty; an array has
            another dtype or shape; a list is empty or mixed; or it is no image at all.
    """
    if isinstance(images, np.ndarray):
        return _pixels(images)
    if not isinstance(images, (list, tuple)):
        return [_file(images)]
    if not images:
        raise InvalidRequest("expected at least one image, got an empty list")
    arrays = [image for image in images if isinstance(image, np.ndarray)]
    if not arrays:
        return [_file(image, f"image {index}: ") for index, image in enumerate(images)]
    if len(arrays) != len(images):
        raise InvalidRequest(
            f"expected all images as arrays or none, got {len(arrays)} of {len(images)}"
        )
    for index, array in enumerate(arrays):
        first = arrays[0]
        if array.ndim != 3 or (array.dtype, array.shape) != (first.dtype, first.shape):
            dtype = first.dtype if first.dtype in _DTYPES else "uint8"
            shape = first.shape if first.ndim == 3 else "(H, W, 3)"
            raise InvalidRequest(
                f"image {index}: expected {dtype} {shape} as all of a list, "
                f"got {array.dtype} {array.shape}"
            )
    return _pixels(np.stack(arrays))


def blocks(images: Any) -> bool:
    """Whether read_images() reads files or compresses: work to keep out of an event loop."""
    return not isinstance(images, (np.ndarray, bytes))


def _pixels(array: npt.NDArray[Any]) -> PixelArray:
    # The model knows in which order a float input's dimensions are.
    is_picture = array.dtype != np.uint8 or array.shape[-1:] in ((1,), (3,))
    if array.dtype not in _DTYPES or array.ndim not in (3, 4) or not is_picture:
        raise InvalidRequest(
            "expected an array of uint8 (H, W, C) or (N, H, W, C) with C of 3 or 1, or of float32 "
            f"or float16 as the model's own input is, got {array.dtype} {array.shape}"
        )
    if not array.size:
        raise InvalidRequest(f"expected at least one pixel, got an array of shape {array.shape}")
    return array if array.ndim == 4 else array[np.newaxis]


def _file(image: Any, which: str = "") -> bytes:
    if isinstance(image, (str, os.PathLike)):
        return _read(Path(image), which)
    if isinstance(image, (bytes, bytearray, memoryview)):
        if not len(image):
            raise InvalidRequest(f"{which}expected the bytes of a picture file, got 0 bytes")
        return bytes(image)
    if _is_pil(image):
        return _png(image, which)
    raise InvalidRequest(f"{which}expected {_EXPECTED}, got {type(image).__name__}")


def _read(path: Path, which: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidRequest(
            f"{which}expected a readable picture file, got {path}: {reason}"
        ) from error
    except ValueError as error:  # a null byte in the name
        raise InvalidRequest(f"{which}expected a path, got {str(path)!r}: {error}") from error
    if not content:
        raise InvalidRequest(f"{which}expected a picture file, got {path}: 0 bytes")
    return content


def _is_pil(image: Any) -> "TypeGuard[Image.Image]":
    # Who passes a PIL image has imported PIL; who does not need not pay for it.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(image, module.Image)


def _png(image: "Image.Image", which: str) -> bytes:
    from PIL import ImageOps

    # PNG keeps no dependable orientation, so it is applied here; all else the server does.
    buffer = BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":
            raise InvalidRequest(
                f"{which}expected a PIL image of whole numbers, got mode F, whose range nobody "
                "knows: scale it to 0-255 and convert it to L"
            )
        if upright.mode.startswith("I"):  # 16 bits a pixel, whatever they lie in
            from PIL import Image

            upright = Image.fromarray(np.clip(np.asarray(upright), 0, 65535).astype(np.uint16))
        elif upright.mode in _ALPHA_MODES:
            upright = upright.convert(_ALPHA_MODES[upright.mode])
        elif upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        upright.save(buffer, "PNG", compress_level=1)  # the fastest: it is read once
    except InvalidRequest:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
    ) as error:  # a lazily read file that is broken or closed
        raise InvalidRequest(f"{which}expected a PIL image with pixels: {error}") from error
    return buffer.getvalue()
