"""A picture as a model gets to see it."""

import numpy as np
from PIL import Image, ImageOps


def network_input(picture: Image.Image, height: int, width: int, channels: int = 3) -> Image.Image:
    """The picture as RGB, or as "L" for one channel, by the rule of classifier.proto.

    The EXIF orientation is applied, transparency composited onto white, colours turned
    into grey where the model takes grey, then the picture is scaled (bicubic,
    antialiased) so that it just covers the model's input, and the centre is cut out.
    The server does the same; this is for people to see what it did.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):  # 16 bits a pixel; convert("RGB") would only clip them
        scaled = np.clip(np.asarray(upright, np.float32) / 257 + 0.5, 0, 255)
        upright = Image.fromarray(scaled.astype(np.uint8))
    if upright.has_transparency_data:
        paper = Image.new("RGBA", upright.size, "white")
        paper.alpha_composite(upright.convert("RGBA"))
        upright = paper
    colors = upright.convert("RGB")
    if channels == 1:
        colors = colors.convert("L")
    return ImageOps.fit(colors, (width, height), Image.Resampling.BICUBIC)
