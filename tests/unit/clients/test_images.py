"""What may be passed as an image, and what travels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convscope_client import InvalidRequest
from convscope_client.images import read_images


def png(size: tuple[int, int] = (4, 2), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def test_files_travel_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())

    assert read_images(path) == read_images(str(path)) == read_images(png()) == [png()]
    assert read_images([path, bytearray(png()), memoryview(png())]) == [png()] * 3


def test_arrays_travel_as_pixels() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    one, several, listed = read_images(image), read_images(image[None]), read_images((image, image))

    assert isinstance(one, np.ndarray)
    assert isinstance(listed, np.ndarray)
    np.testing.assert_array_equal(one, image[None], strict=True)
    np.testing.assert_array_equal(several, image[None], strict=True)
    np.testing.assert_array_equal(listed, np.stack([image, image]), strict=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_pil_images_travel_as_png(mode: str) -> None:
    image = Image.new(mode, (4, 2))

    (content,) = read_images(image)

    with Image.open(io.BytesIO(bytes(content))) as sent:
        assert sent.format == "PNG"
        assert sent.size == (4, 2)


def test_a_pil_image_keeps_its_pixels_and_its_transparency() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 40))

    (content,) = read_images(image)

    with Image.open(io.BytesIO(bytes(content))) as sent:
        assert sent.convert("RGBA").getpixel((1, 0)) == (10, 20, 30, 40)


def test_a_pil_image_is_turned_upright() -> None:
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6  # a quarter turn

    (content,) = read_images(image)

    with Image.open(io.BytesIO(bytes(content))) as sent:
        assert sent.size == (2, 4)
        assert sent.getexif().get(0x0112, 1) == 1


def test_a_broken_pil_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(png((64, 64))[:-30])
    with (
        Image.open(tmp_path / "cut.png") as image,
        pytest.raises(InvalidRequest, match="expected a PIL image with pixels"),
    ):
        read_images(image)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "expected at least one image, got an empty list"),
        (b"", "expected the bytes of a picture file, got 0 bytes"),
        ([b"x", b""], "image 1: expected the bytes of a picture file, got 0 bytes"),
        ("no/such.jpg", "got no/such.jpg: no such file or directory"),
        ([b"x", "no/such.jpg"], "image 1: expected a readable picture file, got no/such.jpg"),
        ("nul\0.jpg", "expected a path"),
        (".", r"got \.: is a directory"),
        (None, "expected a path, .*, got NoneType"),
        ([b"x", 3], "image 1: expected a path, .*, got int"),
        (np.zeros((2, 2, 3), np.float64), r"\(N, H, W, C\) .* got float64 \(2, 2, 3\)"),
        (np.zeros((3, 2, 2), np.uint8), r"C of 3 or 1, .* got uint8 \(3, 2, 2\)"),
        (np.zeros((2, 2), np.uint8), r"got uint8 \(2, 2\)"),
        (np.zeros((0, 2, 2, 3), np.uint8), r"expected at least one pixel, got .*\(0, 2, 2, 3\)"),
        ([np.zeros((2, 2, 3), np.uint8), b"x"], "expected all images as arrays or none, got 1 of"),
        (
            [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 4, 3), np.uint8)],
            r"image 1: expected uint8 \(2, 2, 3\) as all of a list, got uint8 \(2, 4, 3\)",
        ),
        (
            [np.zeros((1, 2, 2, 3), np.uint8)],
            r"image 0: expected uint8 \(H, W, 3\) as all of a list, got uint8 \(1, 2, 2, 3\)",
        ),
    ],
)
def test_what_is_no_image_is_one_clear_line(images: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_images(images)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(InvalidRequest, match=r"empty\.jpg: 0 bytes"):
        read_images(tmp_path / "empty.jpg")


def test_grey_and_float_arrays_travel_as_they_are() -> None:
    grey = np.zeros((2, 4, 1), np.uint8)
    own = np.zeros((5, 3, 2, 4), np.float32)
    half = np.zeros((3, 2, 4), np.float16)
    for array, shape in ((grey, (1, 2, 4, 1)), (own, own.shape), (half, (1, 3, 2, 4))):
        sent = read_images(array)
        assert isinstance(sent, np.ndarray)
        assert (sent.dtype, sent.shape) == (array.dtype, shape)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_sixteen_bits_a_pixel_travel_whole(mode: str) -> None:
    values = np.array([[0, 256, 30_000, 65_535]], np.uint16)
    image = Image.fromarray(values.astype(np.int32) if mode == "I" else values)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
    sent = read_images(image)
    assert isinstance(sent, list)
    with Image.open(io.BytesIO(sent[0])) as read:
        assert np.asarray(read).tolist() == values.tolist()


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA"])
def test_transparency_is_kept_in_any_form(mode: str) -> None:
    image = Image.new("LA" if mode == "La" else "RGBA", (2, 2), 0)
    sent = read_images(image.convert(mode))
    assert isinstance(sent, list)
    with Image.open(io.BytesIO(sent[0])) as read:
        assert read.convert("RGBA").getchannel("A").getextrema() == (0, 0)


def test_floats_of_unknown_range_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="got mode F, whose range nobody knows"):
        read_images(Image.new("F", (2, 2)))
