"""What a call to Classify returns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope_client.errors import InvalidRequest

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class's score for one image.

    Attributes:
        index: Of the class, from 0.
        label: Of the class; the index in words if the model has no labels.
        score: Raw class score: the value before the softmax.
        probability: Softmax over all classes, 0-1.
    """

    index: int
    label: str
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The most probable classes of one image, most probable first."""

    top: tuple[ClassScore, ...]

    @property
    def label(self) -> str:
        """The most probable class's label.

        Raises:
            InvalidRequest: There is none, because top_k was 0.
        """
        if not self.top:
            raise InvalidRequest("expected top_k >= 1 to have a label, got top_k=0")
        return self.top[0].label


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMap:
    """One layer's activations for the images of a request.

    Attributes:
        layer: Its name, such as "conv1".
        values: float32, float16 or uint8 as asked for, read-only, shape (N, C, H, W),
            or (N, C) for a layer without height and width.
        channels: The channels that values holds, int64, (N, C); None if it holds
            all, or if they were reduced to one.
        scale: For uint8, float32 (N,): activation = offset + scale * value. Else None.
        offset: As scale.
    """

    layer: str
    values: npt.NDArray[Any]
    channels: npt.NDArray[np.int64] | None = None
    scale: Float32Array | None = None
    offset: Float32Array | None = None

    def activations(self) -> Float32Array:
        """The values as float32, uint8 scaled back; the shape of values."""
        if self.scale is None or self.offset is None:
            return self.values.astype(np.float32, copy=False)
        each_image = (len(self.values),) + (1,) * (self.values.ndim - 1)
        scale, offset = self.scale.reshape(each_image), self.offset.reshape(each_image)
        return offset + scale * self.values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went on the server, in nanoseconds.

    Attributes:
        decode_ns: Reading pictures into pixels.
        queue_ns: Waiting for a batch.
        compute_ns: Computing, all batches that held an image of this request together.
        batch_size: Images in the largest of those batches, other requests' included.
        batch_count: Batches that held an image of this request.
    """

    decode_ns: int
    queue_ns: int
    compute_ns: int
    batch_size: int
    batch_count: int


@dataclass(frozen=True, slots=True, eq=False)
class ClassifyResult:
    """The answer for the N images of one request, in their order.

    Attributes:
        model_name: The model that answered.
        model_version: Its version.
        request_id: The request's own.
        classifications: One for each image; empty if top_k was 0.
        scores: Raw class scores, float32 (N, K); None unless asked for.
        probabilities: Softmax of the scores, float32 (N, K); None unless asked for.
        feature_maps: In the order asked for; within one wish in the network's order.
        timings: Where the time went.
    """

    model_name: str
    model_version: str
    request_id: str
    classifications: tuple[Classification, ...]
    scores: Float32Array | None
    probabilities: Float32Array | None
    feature_maps: tuple[FeatureMap, ...]
    timings: Timings

    @property
    def labels(self) -> tuple[str, ...]:
        """The most probable class's label for each image; empty if top_k was 0."""
        return tuple(classification.label for classification in self.classifications)

    def feature_map(self, layer: str) -> FeatureMap:
        """The first feature map of this layer.

        Raises:
            InvalidRequest: None came back; the message names those that did.
        """
        for feature_map in self.feature_maps:
            if feature_map.layer == layer:
                return feature_map
        known = ", ".join(feature_map.layer for feature_map in self.feature_maps) or "none"
        raise InvalidRequest(f"expected one of the feature maps asked for: {known}, got {layer!r}")
