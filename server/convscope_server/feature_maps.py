"""Which feature maps a request asks for, how large they are, and in what form they leave."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from convscope_server.backend import PROBABILITIES, SCORES, Float32Array, LayerInfo, ModelInfo
from convscope_server.errors import InvalidRequest, shortened

FLOAT32 = np.dtype(np.float32)

# Entries of a request, and names or patterns of an entry: a request that says more has
# the event loop look for layers for too long. "all" names them all in one.
MAX_ENTRIES = 256
MAX_NAMES = 1024
MAX_NAME_LENGTH = 1024
# Indices of channels in an entry; more than any layer has.
MAX_CHANNELS = 1 << 16

# At most, what the wire adds to a feature map, for each image, and for a channel's index.
_MAP_BYTES = 128
_ROW_BYTES = 8
_CHANNEL_BYTES = 5


class Reduction(Enum):
    """What is done over the chosen channels."""

    NONE = 0
    MEAN = 1
    MAX = 2


@dataclass(frozen=True, slots=True)
class MapRequest:
    """One entry of what a caller asks for.

    Attributes:
        layers: Names, patterns such as "conv*", or "all".
        channels: Channel indices; None for all of them.
        most_active: For each image, this many channels with the highest mean;
            None for no such choice. At most one of channels and most_active is given.
        dtype: float32, float16, or uint8 for values scaled to 0-255.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...] | None = None
    most_active: int | None = None
    reduction: Reduction = Reduction.NONE
    dtype: np.dtype[np.generic] = FLOAT32

    def listed_channel_count(self, depth: int) -> int:
        """Channels whose indices come back, of a layer with this many."""
        chosen = self.channels is not None or self.most_active is not None
        return self.channel_count(depth) if chosen else 0

    def channel_count(self, depth: int) -> int:
        """Channels that are left of a layer with this many."""
        if self.reduction is not Reduction.NONE:
            return 1
        if self.channels is not None:
            return len(self.channels)
        return depth if self.most_active is None else min(self.most_active, depth)


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """One layer's feature maps as they leave.

    Attributes:
        values: (N, C, H, W) or (N, C), of the dtype asked for.
        channels: The channels that values holds, (N, C); None if all, or if reduced.
        scale, offset: For uint8, (N,) each: activation = offset + scale x value.
    """

    layer: str
    values: npt.NDArray[np.generic]
    channels: npt.NDArray[np.intp] | None = None
    scale: Float32Array | None = None
    offset: Float32Array | None = None


class MapPlan:
    """What a request's entries mean for one model.

    Attributes:
        tensors: The graph's tensors to compute beside the scores, each once, in
            the network's order, so that equal wishes share one session.
        items: Layer and entry, one for each answer, in order.
    """

    def __init__(self, requests: Sequence[MapRequest], info: ModelInfo) -> None:
        """Find the layers.

        Raises:
            InvalidRequest: An entry names an unknown layer or channel, none, or too many.
        """
        self.items: list[tuple[LayerInfo, MapRequest]] = []
        self.tensors: tuple[str, ...] = ()
        self._activations = 0
        if not requests:
            return
        self.items = [
            (layer, request)
            for index, request in enumerate(requests)
            for layer in _select(index, request, info.layers)
        ]
        wanted = {layer.tensor for layer, _ in self.items} - {SCORES, PROBABILITIES}
        tensors = (layer.tensor for layer in info.layers if layer.tensor in wanted)
        self.tensors = tuple(dict.fromkeys(tensors))
        computed = {layer.tensor: layer.volume.size for layer, _ in self.items}
        self._activations = sum(computed.values())

    def activation_bytes(self, rows: int) -> int:
        """Size of all that is computed for the answer, before channels and reductions."""
        return rows * self._activations * FLOAT32.itemsize

    def value_bytes(self, rows: int) -> int:
        """Size of the answer's values for this many images."""
        return sum(value_bytes(layer, request, rows) for layer, request in self.items)

    def response_bytes(self, rows: int) -> int:
        """Size of the answer's feature maps on the wire, at most."""
        return self.value_bytes(rows) + sum(
            _MAP_BYTES
            + len(layer.name.encode())
            + rows * _ROW_BYTES  # of uint8, scale and offset
            + rows * request.listed_channel_count(layer.volume.depth) * _CHANNEL_BYTES
            for layer, request in self.items
        )

    def answers(self, outputs: Mapping[str, Float32Array]) -> list[MapAnswer]:
        """The feature maps in the form asked for.

        Args:
            outputs: Tensors by name: float32, (N, C, H, W) or (N, C).
        """
        return [_answer(layer, request, outputs[layer.tensor]) for layer, request in self.items]


def value_bytes(layer: LayerInfo, request: MapRequest, rows: int) -> int:
    """Size of the values of one layer's answer for this many images."""
    volume = layer.volume
    values = request.channel_count(volume.depth) * volume.height * volume.width
    return rows * values * request.dtype.itemsize


def _select(index: int, request: MapRequest, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    if not request.layers:
        raise InvalidRequest(f"feature_maps[{index}]: expected at least one layer, got none")
    if request.most_active == 0 or request.channels == ():
        raise InvalidRequest(f"feature_maps[{index}]: expected at least one channel, got none")
    if len(request.layers) > MAX_NAMES or max(map(len, request.layers)) > MAX_NAME_LENGTH:
        raise InvalidRequest(
            f"feature_maps[{index}]: expected at most {MAX_NAMES} names of at most "
            f"{MAX_NAME_LENGTH} characters, got {len(request.layers)}"
        )
    if request.channels and len(set(request.channels)) < len(request.channels):
        raise InvalidRequest(f"feature_maps[{index}]: expected each channel once")
    known = {layer.name: layer for layer in layers}
    chosen: set[str] = set()
    for pattern in dict.fromkeys(request.layers):
        if pattern in known:  # an exact name beats a pattern: foreign names may look like one
            names = {pattern}
        else:
            names = {name for name in known if pattern == "all" or fnmatchcase(name, pattern)}
        if not names:
            raise InvalidRequest(
                f"unknown layer {pattern[:100]!r}: expected one of {shortened(known)}, "
                "a pattern such as conv*, or all"
            )
        chosen |= names
    selected = [layer for layer in layers if layer.name in chosen]
    for layer in selected:
        depth = layer.volume.depth
        for channel in request.channels or ():
            if channel >= depth:
                raise InvalidRequest(
                    f"layer {layer.name}: expected channels from 0 to {depth - 1}, got {channel}"
                )
    return selected


def _answer(layer: LayerInfo, request: MapRequest, values: Float32Array) -> MapAnswer:
    channels = _channels(request, values)
    if channels is not None:
        index = channels.reshape(channels.shape + (1,) * (values.ndim - 2))
        values = np.take_along_axis(values, index, axis=1)
    if request.reduction is Reduction.MEAN:
        values, channels = values.mean(axis=1, keepdims=True), None
    elif request.reduction is Reduction.MAX:
        values, channels = values.max(axis=1, keepdims=True), None
    if request.dtype == np.uint8:
        scaled, scale, offset = _to_uint8(values)
        return MapAnswer(layer.name, scaled, channels, scale, offset)
    with np.errstate(over="ignore"):  # beyond 65504 float16 has only infinity
        return MapAnswer(layer.name, values.astype(request.dtype, copy=False), channels)


def _channels(request: MapRequest, values: Float32Array) -> npt.NDArray[np.intp] | None:
    """The chosen channels, (N, C); None for all."""
    if request.channels is not None:
        return np.tile(np.array(request.channels, np.intp), (len(values), 1))
    if request.most_active is None:
        return None
    activity = values.reshape(*values.shape[:2], -1).mean(axis=2)
    return np.argsort(-activity, axis=1, kind="stable")[:, : request.most_active]


def _to_uint8(
    values: Float32Array,
) -> tuple[npt.NDArray[np.uint8], Float32Array, Float32Array]:
    """Each image's values scaled to 0-255: value = offset + scale x result."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    offset = flat.min(axis=1)
    scale = (flat.max(axis=1) - offset) / np.float32(255)
    divisor = np.where(scale > 0, scale, np.float32(1))  # equal values: all 0
    scaled = np.rint((flat - offset[:, None]) / divisor[:, None]).astype(np.uint8)
    return scaled.reshape(values.shape), scale, offset
