import threading
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convscope_server.errors import InvalidRequest
from convscope_server.pictures import decode, decode_all


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(picture: bytes, height: int = 4, width: int = 4, max_pixels: int = 10_000) -> Any:
    result = decode(picture, height, width, max_pixels=max_pixels)
    assert result.dtype == np.uint8
    assert result.shape == (height, width, 3)
    return result


def test_a_picture_of_the_right_size_is_untouched() -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(values))), values)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_kind_is_read(kind: str) -> None:
    found = pixels(encoded(Image.new("RGB", (40, 30), (200, 60, 20)), kind))
    np.testing.assert_allclose(found, np.broadcast_to((200, 60, 20), (4, 4, 3)), atol=4)


def test_the_centre_of_a_wide_picture_is_cut_out() -> None:
    image = Image.new("RGB", (120, 40), "red")
    image.paste("blue", (40, 0, 80, 40))
    found = pixels(encoded(image))
    assert (found[:, 1:3] == (0, 0, 255)).all()


def test_the_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (4, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    found = pixels(encoded(image, exif=exif))
    assert found[0, 3].tolist() == [255, 255, 255]


def test_transparency_is_composited_onto_white() -> None:
    assert (pixels(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))) == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert (pixels(encoded(palette, "GIF", transparency=0)) == 255).all()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.full((4, 4), 0x8000, np.uint16)
    assert (pixels(encoded(Image.fromarray(values))) == 128).all()


def test_cmyk_and_grey_become_rgb() -> None:
    assert (pixels(encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG")) == 255).all()
    assert (pixels(encoded(Image.new("L", (4, 4), 77))) == 77).all()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(animation) == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"", "got 0 bytes"),
        (b"hello, world", "expected a JPEG, PNG, WebP, GIF or BMP file, got 12 bytes"),
        (
            encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:200],
            "cannot be decoded|another kind",
        ),
        (encoded(Image.effect_noise((64, 64), 50))[:-500], "cannot be decoded"),
        (encoded(Image.new("RGB", (200, 100))), "at most 10000 pixels, got 200 x 100"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "of another kind"),
    ],
)
def test_broken_pictures_are_refused_in_one_line(picture: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as info:
        pixels(picture)
    assert "\n" not in str(info.value)


def test_a_bomb_is_refused_before_its_pixels_are_decoded() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    assert len(bomb) < 100_000
    with pytest.raises(InvalidRequest, match="20000 x 20000"):
        pixels(bomb)


def test_a_lone_picture_is_not_numbered() -> None:
    with pytest.raises(InvalidRequest, match=r"^expected a JPEG"):
        decode_all([b"bad"], 4, 4, 3, max_pixels=100)


def test_the_broken_one_of_several_is_named() -> None:
    good = encoded(Image.new("RGB", (4, 4)))
    with pytest.raises(InvalidRequest, match=r"^picture 1 of 2: "):
        decode_all([good, b"bad"], 4, 4, 3, max_pixels=100)


def test_pictures_that_nobody_waits_for_are_not_decoded() -> None:
    gone = threading.Event()
    gone.set()
    # Decoding the first would raise.
    assert decode_all([b"no picture"] * 3, 4, 4, 3, max_pixels=100, gone=gone).shape == (3, 4, 4, 3)
