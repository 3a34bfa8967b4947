"""Pictures of every bad kind, and of good kinds that are rare, over each transport."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import activations, random_images, write_repository

from convscope_proto.tensors import from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc

MAX_PIXELS = 1_000_000
RED = (200, 100, 50)


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    models = write_repository(tmp_path_factory.mktemp("models"))
    with running_server(models, request.param, max_picture_pixels=MAX_PIXELS) as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[pb_grpc.ClassifierStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.ClassifierStub(channel)


@pytest.fixture(autouse=True)
def lives_on(stub: pb_grpc.ClassifierStub) -> Iterator[None]:
    yield
    stub.Classify(pb.ClassifyRequest(pixels=to_tensor(random_images(1))), timeout=30)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises these pixels, grey, whatever its data holds."""

    def chunk(name: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


FLAT = Image.new("RGB", (64, 64), RED)
NOISE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8), "RGB"
)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        pytest.param(b"", "got 0 bytes", id="no bytes"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected a JPEG", id="svg"),
        pytest.param(b"%PDF-1.7\n", "expected a JPEG", id="pdf"),
        pytest.param(saved(FLAT, "TIFF"), "expected a JPEG", id="tiff"),
        pytest.param(saved(FLAT, "ICO"), "expected a JPEG", id="ico"),
        pytest.param(saved(NOISE, "JPEG")[:-2000], "cannot be decoded", id="truncated jpeg"),
        pytest.param(saved(NOISE, "JPEG")[:30], "expected", id="jpeg header"),
        pytest.param(saved(NOISE, "PNG")[:-2000], "cannot be decoded", id="truncated png"),
        pytest.param(saved(NOISE, "WEBP")[:-500], "expected", id="truncated webp"),
        pytest.param(saved(NOISE, "GIF")[:-2000], "expected", id="truncated gif"),
        pytest.param(saved(NOISE, "BMP")[:-2000], "expected", id="truncated bmp"),
        pytest.param(png_of(50_000, 50_000), f"at most {MAX_PIXELS} pixels", id="bomb of a header"),
        pytest.param(
            png_of(20_000, 5_000, zlib.compress(bytes(20_001 * 5_000))),
            f"at most {MAX_PIXELS} pixels",
            id="bomb of 100 megapixels",
        ),
        pytest.param(
            saved(Image.new("RGB", (4000, 4000)), "WEBP"),
            f"at most {MAX_PIXELS} pixels",
            id="huge webp",
        ),
        pytest.param(
            saved(Image.new("L", (4000, 4000)), "GIF"),
            f"at most {MAX_PIXELS} pixels",
            id="huge gif",
        ),
        pytest.param(png_of(0, 10), "expected", id="png without width"),
    ],
)
def test_bad_pictures_are_invalid_in_one_clear_line(
    stub: pb_grpc.ClassifierStub, picture: bytes, message: str
) -> None:
    request = pb.ClassifyRequest(encoded=pb.EncodedImages(images=[saved(FLAT, "PNG"), picture]))
    with pytest.raises(grpc.RpcError) as info:
        stub.Classify(request, timeout=30)
    assert isinstance(info.value, grpc.Call)
    details = info.value.details() or ""
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT, details
    assert message in details
    assert "expected" in details
    assert "\n" not in details
    # In a stream the others are answered.
    good = pb.ClassifyRequest(encoded=pb.EncodedImages(images=[saved(FLAT, "PNG")]))
    answers = list(stub.ClassifyStream(iter([good, request, good]), timeout=30))
    assert [answer.WhichOneof("result") for answer in answers] == ["response", "error", "response"]
    assert (answers[1].error.code, answers[1].error.message) == (3, details)


def sixteen_bits() -> bytes:
    return saved(Image.fromarray(np.full((64, 64), 200 * 257, np.uint16)), "PNG")


@pytest.mark.parametrize(
    ("picture", "pixel"),
    [
        pytest.param(
            saved(
                FLAT, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64), (0, 0, 255))]
            ),
            RED,
            id="animated gif: the first frame",
        ),
        pytest.param(
            saved(
                FLAT,
                "WEBP",
                lossless=True,
                save_all=True,
                append_images=[Image.new("RGB", (64, 64), (0, 0, 255))],
            ),
            RED,
            id="animated webp: the first frame",
        ),
        pytest.param(sixteen_bits(), (200, 200, 200), id="16-bit png"),
        pytest.param(
            saved(Image.new("CMYK", (64, 64), (0, 0, 0, 255)), "JPEG"), (0, 0, 0), id="cmyk jpeg"
        ),
        pytest.param(saved(Image.new("1", (64, 64), 1), "PNG"), (255, 255, 255), id="1-bit png"),
        pytest.param(saved(Image.new("P", (64, 64), 0), "PNG"), (0, 0, 0), id="palette png"),
        pytest.param(
            saved(Image.new("RGBA", (64, 64), (9, 9, 9, 0)), "PNG"),
            (255, 255, 255),
            id="transparent png",
        ),
        pytest.param(saved(FLAT.resize((1, 1)), "PNG"), RED, id="one pixel"),
    ],
)
def test_rare_pictures_are_what_they_show(
    stub: pb_grpc.ClassifierStub, picture: bytes, pixel: tuple[int, int, int]
) -> None:
    request = pb.ClassifyRequest(encoded=pb.EncodedImages(images=[picture]), include_scores=True)
    scores = from_tensor(stub.Classify(request, timeout=30).scores)
    shown: npt.NDArray[np.uint8] = np.broadcast_to(np.array(pixel, np.uint8), (1, 4, 4, 3))
    np.testing.assert_allclose(scores, activations(shown)["scores"], rtol=1e-5)
