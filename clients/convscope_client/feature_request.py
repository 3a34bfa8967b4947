"""Which feature maps to return, and in what form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from convscope_client.errors import InvalidRequest

Reduction = Literal["mean", "max"]
FeatureDtype = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """One wish for feature maps: layers, and the form in which they come back.

    Attributes:
        layers: Layer names, patterns such as "conv*", or "all"; one, or several.
        channels: Channel indices, from 0, in the order in which they are to come
            back; None for all. At most one of channels and most_active is given.
        most_active: For each image, this many channels with the highest mean
            activation, most active first; None for no such choice.
        reduction: "mean" or "max" over the chosen channels; None for neither.
        dtype: Of the values: "float32", "float16", or "uint8", which scales each
            image's values to 0-255 (FeatureMap.activations() scales them back).
    """

    layers: str | Sequence[str]
    channels: Sequence[int] | None = None
    most_active: int | None = None
    reduction: Reduction | None = None
    dtype: FeatureDtype = "float32"


# Names and patterns share one FeatureRequest in its default form.
Features = str | FeatureRequest | Sequence[str | FeatureRequest]


def feature_requests(features: Features | None) -> list[FeatureRequest]:
    """Every accepted way to ask for feature maps as a list; names alone become one request.

    Raises:
        InvalidRequest: An element is neither a name nor a FeatureRequest.
    """
    if features is None:
        return []
    if isinstance(features, (str, FeatureRequest)):
        features = [features]
    names, requests = [], []
    for feature in features:
        if isinstance(feature, str):
            names.append(feature)
        elif isinstance(feature, FeatureRequest):
            requests.append(feature)
        else:
            raise InvalidRequest(
                f"expected features as layer names and FeatureRequests, got {feature!r:.80}"
            )
    return [FeatureRequest(names), *requests] if names else requests
