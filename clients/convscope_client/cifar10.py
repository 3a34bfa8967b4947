"""The CIFAR-10 test split, as the official binary archive holds it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from convscope_client.errors import InvalidRequest

CLASS_COUNT = 10
SIDE = 32
_FILE = "test_batch.bin"
_DIRECTORY = "cifar-10-batches-bin"
_IMAGE_COUNT = 10_000
# A label, then the red, the green and the blue plane, row by row
# (https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version").
_RECORD_BYTES = 1 + 3 * SIDE * SIDE


def find_test_file(directory: Path) -> Path:
    """The test split's file in a directory, or in its cifar-10-batches-bin.

    Raises:
        InvalidRequest: Neither holds it.
    """
    for place in (directory, directory / _DIRECTORY):
        if (place / _FILE).is_file():
            return place / _FILE
    raise InvalidRequest(
        f"expected {_FILE} of CIFAR-10's binary version in {directory} or its {_DIRECTORY}, "
        "got no such file: name another directory with --data"
    )


def read_test_file(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The images and the labels of the test split.

    Returns:
        Images, uint8, (10000, 32, 32, 3), RGB, 0-255; labels, uint8, (10000,), 0-9.

    Raises:
        InvalidRequest: The file is unreadable, truncated, or not of this layout.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"expected a readable file, got {path}: {error.strerror}") from error
    if len(content) != _IMAGE_COUNT * _RECORD_BYTES:
        raise InvalidRequest(
            f"expected {_IMAGE_COUNT * _RECORD_BYTES:,} bytes in {path}, got {len(content):,}"
        )
    records = np.frombuffer(content, np.uint8).reshape(_IMAGE_COUNT, _RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() >= CLASS_COUNT:
        raise InvalidRequest(f"expected labels from 0 to 9 in {path}, got {labels.max()}")
    planes = records[:, 1:].reshape(_IMAGE_COUNT, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels
