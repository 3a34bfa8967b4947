import numpy as np
import numpy.typing as npt
import pytest

from convscope_export.cifar10 import Images, UInt8Array
from convscope_export.evaluation import evaluate


def first_pixel(pixels: UInt8Array) -> npt.NDArray[np.float32]:
    """Scores that choose the class in each picture's first pixel."""
    return np.eye(3, dtype=np.float32)[pixels[:, 0, 0, 0]]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_counts_what_is_right_overall_and_per_class(batch_size: int) -> None:
    pixels = np.zeros((5, 3, 2, 2), np.uint8)
    pixels[:, 0, 0, 0] = [0, 0, 1, 1, 0]
    images = Images(pixels, np.array([0, 0, 1, 0, 1]))
    found = evaluate(first_pixel, images, ["cat", "dog", "ship"], batch_size=batch_size)
    assert found.top1 == pytest.approx(3 / 5)
    assert found.per_class == {"cat": pytest.approx(2 / 3), "dog": 0.5, "ship": None}
    assert found.images == 5
