"""Top-1 accuracy of anything that turns pixels into class scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convscope_export.cifar10 import Images, UInt8Array


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose highest score is their label's.

    Attributes:
        top1: Over all images, 0-1.
        per_class: The same over each label's images, 0-1; None where there are none.
        images: How many were looked at.
    """

    top1: float
    per_class: dict[str, float | None]
    images: int


def evaluate(
    scores_of: Callable[[UInt8Array], npt.NDArray[np.float32]],
    images: Images,
    labels: Sequence[str],
    *,
    batch_size: int = 500,
) -> Accuracy:
    """Measure top-1 accuracy by one forward per image, without test-time augmentation.

    Args:
        scores_of: Turns pixels, uint8, shape (N, C, H, W), into scores, shape (N, K).
            Equal scores count for the lower class index.
        images: What to measure on; at least one image.
        labels: The K class labels.
        batch_size: Most images a call.
    """
    right = np.concatenate(
        [
            np.argmax(scores_of(images.pixels[i : i + batch_size]), axis=1)
            == images.labels[i : i + batch_size]
            for i in range(0, len(images), batch_size)
        ]
    )
    per_class: dict[str, float | None] = {}
    for index, label in enumerate(labels):
        of_class = right[images.labels == index]
        per_class[label] = float(of_class.mean()) if of_class.size else None
    return Accuracy(float(right.mean()), per_class, len(images))
