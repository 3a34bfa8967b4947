"""Messages of convscope.v1 to what the server works with, and back. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from convscope_proto.tensors import TensorError, from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_server.backend import PROBABILITIES, SCORES, Float32Array, ImageArray, ModelInfo
from convscope_server.batch_request import Computed
from convscope_server.errors import InvalidRequest
from convscope_server.feature_maps import (
    MAX_CHANNELS,
    MAX_ENTRIES,
    MAX_NAMES,
    MapAnswer,
    MapPlan,
    MapRequest,
    Reduction,
)
from convscope_server.inference import Result
from convscope_server.model_status import ModelState, ModelStatus
from convscope_server.pixels import checked_images

DEFAULT_TOP_K = 5
# At most, what the wire adds to the label and numbers of a class, and to an answer.
_CLASS_SCORE_BYTES = 32
_RESPONSE_BYTES = 1024

_STATES: Mapping[ModelState, pb.ModelState.ValueType] = {
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.UNLOADING: pb.MODEL_STATE_UNLOADING,
    ModelState.UNAVAILABLE: pb.MODEL_STATE_UNAVAILABLE,
}

M = TypeVar("M", bound=Message)

_DTYPES: Mapping[int, np.dtype[np.generic]] = {
    pb.DATA_TYPE_UNSPECIFIED: np.dtype(np.float32),
    pb.DATA_TYPE_FLOAT32: np.dtype(np.float32),
    pb.DATA_TYPE_FLOAT16: np.dtype(np.float16),
    pb.DATA_TYPE_UINT8: np.dtype(np.uint8),
}
_REDUCTIONS: Mapping[int, Reduction] = {
    pb.REDUCTION_UNSPECIFIED: Reduction.NONE,
    pb.REDUCTION_MEAN: Reduction.MEAN,
    pb.REDUCTION_MAX: Reduction.MAX,
}


def parse(kind: type[M], data: bytes) -> M:
    """A message from its bytes.

    Raises:
        InvalidRequest: The bytes are no such message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"expected a {kind.DESCRIPTOR.full_name}, got other bytes") from error


def row_count(request: pb.ClassifyRequest) -> int:
    """How many images a request holds, before any is decoded.

    Raises:
        InvalidRequest: It holds none, or pixels without a shape.
    """
    kind = request.WhichOneof("images")
    if kind == "encoded":
        rows = len(request.encoded.images)
    elif kind == "pixels":
        rows = request.pixels.shape[0] if request.pixels.shape else 0
    else:
        raise InvalidRequest("expected images as pixels or encoded, got neither")
    if not rows:
        raise InvalidRequest("expected at least one image, got none")
    return rows


def images(request: pb.ClassifyRequest, info: ModelInfo) -> ImageArray | Sequence[bytes]:
    """A request's images: pixels as pixels() has them, or picture files."""
    if request.WhichOneof("images") == "pixels":
        return pixels(request.pixels, info)
    return request.encoded.images


def pixels(tensor: pb.Tensor, info: ModelInfo) -> ImageArray:
    """Raw pixels of a request, as checked_images() has them.

    Raises:
        InvalidRequest: They are of another dtype or shape, or the bytes do not fit.
    """
    try:
        array = from_tensor(tensor)
    except TensorError as error:
        raise InvalidRequest(f"pixels: {error}") from error
    return checked_images(array, info)


def map_requests(request: pb.ClassifyRequest) -> list[MapRequest]:
    """The feature maps that a request asks for.

    Raises:
        InvalidRequest: There are too many entries, one says too much, or it holds an enum
            value that this server does not know.
    """
    if len(request.feature_maps) > MAX_ENTRIES:
        raise InvalidRequest(
            f"expected at most {MAX_ENTRIES} entries of feature_maps, got "
            f"{len(request.feature_maps)}: name several layers in one"
        )
    requests = []
    for index, entry in enumerate(request.feature_maps):
        if entry.dtype not in _DTYPES or entry.reduction not in _REDUCTIONS:
            raise InvalidRequest(
                f"feature_maps[{index}]: expected a dtype of UINT8, FLOAT16 or FLOAT32 and a "
                f"reduction of MEAN or MAX, got dtype {entry.dtype}, reduction {entry.reduction}"
            )
        # Before they are copied: millions fit into a message.
        if len(entry.layers) > MAX_NAMES or len(entry.subset.indices) > MAX_CHANNELS:
            raise InvalidRequest(
                f"feature_maps[{index}]: expected at most {MAX_NAMES} names of layers and "
                f"{MAX_CHANNELS} channels, got {len(entry.layers)} and "
                f"{len(entry.subset.indices)}"
            )
        kind = entry.WhichOneof("channels")
        requests.append(
            MapRequest(
                layers=tuple(entry.layers),
                channels=tuple(entry.subset.indices) if kind == "subset" else None,
                most_active=entry.most_active if kind == "most_active" else None,
                reduction=_REDUCTIONS[entry.reduction],
                dtype=_DTYPES[entry.dtype],
            )
        )
    return requests


def top_k(request: pb.ClassifyRequest) -> int:
    """How many of the most probable classes a request asks for."""
    return request.top_k if request.HasField("top_k") else DEFAULT_TOP_K


def response_bytes(request: pb.ClassifyRequest, plan: MapPlan, info: ModelInfo, rows: int) -> int:
    """Size of the answer, at most; known before anything runs."""
    class_count = len(info.labels)
    matrices = request.include_scores + request.include_probabilities
    class_score_bytes = info.longest_label_bytes + _CLASS_SCORE_BYTES
    return (
        _RESPONSE_BYTES
        + len(request.id.encode())
        + matrices * rows * class_count * 4
        + rows * min(top_k(request), class_count) * class_score_bytes
        + plan.response_bytes(rows)
    )


def fill(
    response: pb.ClassifyResponse,
    request: pb.ClassifyRequest,
    plan: MapPlan,
    result: Result,
    labels: Sequence[str],
) -> None:
    """Write what a request asks for into its answer; of large answers takes long.

    Args:
        response: To write into.
        request: What is asked for.
        plan: Its feature maps.
        result: What was computed.
        labels: Of the K classes.
    """
    outputs = result.outputs
    scores, probabilities = outputs[SCORES], outputs[PROBABILITIES]
    if count := top_k(request):
        response.classifications.extend(classifications(scores, probabilities, labels, count))
    if request.include_scores:
        response.scores.CopyFrom(to_tensor(scores))
    if request.include_probabilities:
        response.probabilities.CopyFrom(to_tensor(probabilities))
    response.feature_maps.extend(map(feature_map, plan.answers(outputs)))
    response.id = request.id
    response.timings.CopyFrom(timings(result.computed, result.decode_s))


def classifications(
    scores: Float32Array, probabilities: Float32Array, labels: Sequence[str], top_k: int
) -> list[pb.Classification]:
    """The most probable classes of each image, most probable first.

    Args:
        scores: float32, (N, K).
        probabilities: float32, (N, K); the order is theirs.
        labels: K of them.
        top_k: How many; more than K are K.
    """
    # Stable on the negated values: equal ones keep the order of their indices.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        pb.Classification(
            top=[
                pb.ClassScore(
                    index=index,
                    label=labels[index],
                    score=row_scores[index],
                    probability=row[index],
                )
                for index in indices
            ]
        )
        for indices, row_scores, row in zip(
            order.tolist(), scores.tolist(), probabilities.tolist(), strict=True
        )
    ]


def feature_map(answer: MapAnswer) -> pb.FeatureMap:
    """One layer's feature maps."""
    message = pb.FeatureMap(layer=answer.layer, values=to_tensor(answer.values))
    if answer.channels is not None:
        message.channels.extend(answer.channels.ravel().tolist())
    if answer.scale is not None and answer.offset is not None:
        message.scale.extend(answer.scale.tolist())
        message.offset.extend(answer.offset.tolist())
    return message


def timings(computed: Computed, decode_s: float) -> pb.Timings:
    """Where a request's time went."""
    return pb.Timings(
        decode_ns=round(decode_s * 1e9),
        queue_ns=round(computed.queue_s * 1e9),
        compute_ns=round(computed.compute_s * 1e9),
        batch_size=computed.batch_size,
        batch_count=computed.batch_count,
    )


def describe_status(status: ModelStatus) -> pb.Model:
    """A version that is not served: only where it stands."""
    return pb.Model(
        name=status.name,
        version=status.version,
        state=_STATES[status.state],
        state_reason=status.reason,
    )


def describe(
    info: ModelInfo, *, name: str, version: str, max_batch_size: int, execution_provider: str
) -> pb.Model:
    """A model that is served, whole."""
    model = pb.Model(
        name=name,
        version=version,
        state=pb.MODEL_STATE_READY,
        description=info.description,
        architecture=info.architecture,
        input=pb.ImageInput(
            height=info.height,
            width=info.width,
            channels=info.channels,
            mean=info.mean,
            std=info.std,
        ),
        labels=info.labels,
        max_batch_size=max_batch_size,
        parameter_count=info.parameter_count,
        multiply_add_count=info.multiply_add_count,
        training_data=info.training_data,
        accuracy=info.accuracy,
        accuracy_data=info.accuracy_data,
        execution_provider=execution_provider,
        metadata=dict(info.metadata),
    )
    if info.native:
        own = model.input.float_input
        own.dtype = pb.DATA_TYPE_FLOAT16 if info.native.dtype == "float16" else pb.DATA_TYPE_FLOAT32
        own.layout = info.native.layout
        own.shape.extend(info.native.shape)
    for layer in info.layers:
        volume = layer.volume
        model.layers.add(
            name=layer.name,
            kind=layer.kind,
            volume=pb.Volume(depth=volume.depth, height=volume.height, width=volume.width),
            weight_count=layer.weight_count,
            bias_count=layer.bias_count,
            multiply_add_count=layer.multiply_add_count,
            notation=layer.notation,
        )
    return model
