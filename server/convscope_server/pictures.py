"""Picture files to the pixels that a model takes."""

import threading
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from convscope_server.backend import UInt8Array
from convscope_server.errors import InvalidRequest

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# decode() refuses by its own limit; Pillow's would only print a warning below twice its own.
Image.MAX_IMAGE_PIXELS = None


def decode_all(
    pictures: Sequence[bytes],
    height: int,
    width: int,
    channels: int,
    *,
    max_pixels: int,
    gone: threading.Event | None = None,
) -> UInt8Array:
    """Decode pictures into one array, uint8, (N, height, width, channels), 0-255.

    Three channels are RGB; one is grey, the luma of ITU-R BT.601 as Pillow has it. Once
    gone is set nobody waits for the result, and the rest is not decoded.

    Raises:
        InvalidRequest: One of them cannot be decoded; of several, the message says which,
            counted from 0.
    """
    images = np.empty((len(pictures), height, width, channels), np.uint8)
    for index, picture in enumerate(pictures):
        if gone and gone.is_set():
            break
        try:
            images[index] = decode(picture, height, width, channels, max_pixels=max_pixels)
        except InvalidRequest as error:
            if len(pictures) == 1:
                raise
            raise InvalidRequest(f"picture {index} of {len(pictures)}: {error}") from error
    return images


def decode(
    picture: bytes, height: int, width: int, channels: int = 3, *, max_pixels: int
) -> UInt8Array:
    """Decode a picture to uint8, (height, width, channels), RGB or grey, 0-255.

    The EXIF orientation is applied, transparency composited onto white, colours
    turned into grey where the model takes grey (ITU-R BT.601 luma, Pillow's "L"), then
    the picture is scaled (bicubic, antialiased) so that it just covers the model's
    input, and the centre is cut out. Of an animation, the first frame is taken.

    Args:
        picture: A JPEG, PNG, WebP, GIF or BMP file.
        height: Of the model's input.
        width: Of the model's input.
        channels: Of the model's input: 3 for RGB, 1 for grey.
        max_pixels: Larger pictures are refused before their pixels are decoded.

    Raises:
        InvalidRequest: The bytes are no such file, broken, or too large.
    """
    if not picture:
        raise InvalidRequest("expected a picture file, got 0 bytes")
    try:
        with Image.open(BytesIO(picture), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise InvalidRequest(
                    f"expected a picture of at most {max_pixels} pixels, "
                    f"got {image.width} x {image.height}"
                )
            image.load()
            upright = ImageOps.exif_transpose(image)
            colors = _to_rgb(upright) if channels == 3 else _to_rgb(upright).convert("L")
            fitting = ImageOps.fit(colors, (width, height), Image.Resampling.BICUBIC)
            return np.asarray(fitting).reshape(height, width, channels)
    except (InvalidRequest, MemoryError):  # memory is not the picture's fault
        raise
    except UnidentifiedImageError:
        raise InvalidRequest(
            f"expected a JPEG, PNG, WebP, GIF or BMP file, got {len(picture)} bytes of another kind"
        ) from None
    except Exception as error:  # decoders raise anything on broken files: OSError, SyntaxError, …
        raise InvalidRequest(
            f"expected a whole picture, got {len(picture)} bytes that cannot be decoded: {error}"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits a pixel; convert("RGB") would only clip them
        high_bytes = np.clip(np.asarray(image, np.float32) / 257 + 0.5, 0, 255).astype(np.uint8)
        return Image.fromarray(high_bytes).convert("RGB")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    return image.convert("RGB")
