"""The CIFAR-10 test split of the binary archive."""

from pathlib import Path

import numpy as np
import pytest

from convscope_client import InvalidRequest
from convscope_client.cifar10 import find_test_file, read_test_file

RECORD = np.dtype([("label", "u1"), ("planes", "u1", (3, 32, 32))])


def write(path: Path, count: int = 10_000) -> np.ndarray:
    records = np.zeros(count, RECORD)
    records["label"] = np.arange(count) % 10
    records["planes"][:, 0] = np.arange(32)[:, None]  # red tells the row
    records["planes"][:, 1] = np.arange(32)  # green the column
    records["planes"][:, 2] = records["label"][:, None, None]  # blue the label
    path.write_bytes(records.tobytes())
    return records


def test_planes_become_pixels(tmp_path: Path) -> None:
    write(tmp_path / "test_batch.bin")

    images, labels = read_test_file(tmp_path / "test_batch.bin")

    assert images.shape == (10_000, 32, 32, 3)
    assert images.dtype == labels.dtype == np.uint8
    assert images.flags.c_contiguous
    assert list(images[7, 5, 9]) == [5, 9, 7]
    np.testing.assert_array_equal(labels, np.arange(10_000) % 10)


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin"])
def test_the_file_is_found_in_either_place(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    path = tmp_path / place / "test_batch.bin"
    path.touch()

    assert find_test_file(tmp_path) == path


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"expected test_batch\.bin of CIFAR-10"):
        find_test_file(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "test_batch.bin", 9_999)
    with pytest.raises(InvalidRequest, match=r"expected 30,730,000 bytes in .*, got 30,726,927"):
        read_test_file(tmp_path / "test_batch.bin")


def test_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(b"\x0b" * 30_730_000)
    with pytest.raises(InvalidRequest, match=r"expected labels from 0 to 9 in .*, got 11"):
        read_test_file(tmp_path / "test_batch.bin")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="expected a readable file"):
        read_test_file(tmp_path)
