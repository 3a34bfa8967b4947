import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tiny_cifar import pictures

from convscope_export import cifar10
from convscope_export.cifar10 import DataFormatError
from convscope_export.cifar10_files import FILE_BYTES, FILES


@pytest.fixture(scope="module")
def real() -> cifar10.Cifar10:
    directory = os.environ.get("CONVSCOPE_DATA")
    if directory is None:
        pytest.skip("CONVSCOPE_DATA is not set")
    return cifar10.load(Path(directory))


def broken(layout: Path, folder: Path, name: str) -> Path:
    """Folder like the layout with one file to change."""
    folder.mkdir()
    for file in FILES:
        if file != name:
            (folder / file).symlink_to(layout / file)
    return Path(shutil.copy(layout / name, folder / name))


def test_reads_pixels_and_labels_in_the_files_order(layout: Path) -> None:
    data = cifar10.load(layout)
    assert data.train.pixels.shape == (50_000, 3, 32, 32)
    assert data.test.pixels.shape == (10_000, 3, 32, 32)
    assert data.train.pixels.dtype == data.test.pixels.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    written = pictures(500)
    for split in (data.train[:500], data.train[10_000:10_500], data.test[9_500:]):
        assert np.array_equal(split.pixels, written.pixels)
        assert np.array_equal(split.labels, written.labels)


def test_pictures_whose_digest_is_unknown_are_called_so(layout: Path) -> None:
    data = cifar10.load(layout)
    whole = hashlib.sha256(b"".join((layout / name).read_bytes() for name in FILES)).hexdigest()
    assert data.sha256 == whole
    assert data.copy.name == "CIFAR-10 layout, unrecognised pixels"
    assert whole in data.copy.description
    assert not data.copy.official


@pytest.mark.parametrize("size", [FILE_BYTES - 1, FILE_BYTES + 1, 0])
def test_a_file_of_another_length_is_an_error(layout: Path, tmp_path: Path, size: int) -> None:
    path = broken(layout, tmp_path / "data", "data_batch_2.bin")
    os.truncate(path, size)
    with pytest.raises(
        DataFormatError, match=rf"data_batch_2\.bin: expected 30,730,000 bytes .*got {size:,};"
    ):
        cifar10.load(tmp_path / "data")


def test_a_label_beyond_nine_is_an_error(layout: Path, tmp_path: Path) -> None:
    path = broken(layout, tmp_path / "data", "test_batch.bin")
    with path.open("r+b") as file:
        file.seek(3073 * 1234)
        file.write(b"\x0a")
    with pytest.raises(DataFormatError, match=r"expected labels 0-9, got 10 in record 1234"):
        cifar10.load(tmp_path / "data")


def test_known_copies_say_what_they_are() -> None:
    assert cifar10.OFFICIAL.official
    assert not cifar10.JPEG_REENCODED.official
    assert "JPEG" in cifar10.JPEG_REENCODED.description
    assert "not an accuracy on the official pixels" in cifar10.JPEG_REENCODED.description
    for copy in (cifar10.OFFICIAL, cifar10.JPEG_REENCODED):
        assert len(set(copy.file_sha256)) == len(FILES)
        assert all(len(digest) == 64 for digest in copy.file_sha256)
    assert len(cifar10.LABELS) == 10


@pytest.mark.data
def test_real_data_is_recognised(real: cifar10.Cifar10) -> None:
    assert real.copy in (cifar10.OFFICIAL, cifar10.JPEG_REENCODED)
    assert np.bincount(real.train.labels).tolist() == [5_000] * 10
    assert np.bincount(real.test.labels).tolist() == [1_000] * 10


@pytest.mark.data
def test_channel_statistics(real: cifar10.Cifar10) -> None:
    # Half a unit of the fourth decimal on the official pixels; JPEG smooths the colours.
    tolerance = 6e-5 if real.copy.official else 2e-3
    values = np.arange(256) / 255
    for channel, (mean, std) in enumerate(zip(cifar10.MEAN, cifar10.STD, strict=True)):
        counts = np.bincount(real.train.pixels[:, channel].reshape(-1), minlength=256)
        shares = counts / counts.sum()
        found = float(shares @ values)
        assert found == pytest.approx(mean, abs=tolerance)
        assert float(shares @ (values - found) ** 2) ** 0.5 == pytest.approx(std, abs=tolerance)
