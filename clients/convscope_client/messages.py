"""Requests to messages and messages to results; knows no channel. Both clients share it."""

import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convscope_client.errors import InvalidRequest, ServerError
from convscope_client.feature_request import FeatureRequest, Features, feature_requests
from convscope_client.images import PixelArray
from convscope_client.models import FloatInput, ImageInput, Layer, Model, ModelList, Volume
from convscope_client.results import (
    Classification,
    ClassifyResult,
    ClassScore,
    FeatureMap,
    Float32Array,
    Timings,
)
from convscope_proto.tensors import TensorError, from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb

_DTYPES: dict[str, pb.DataType.ValueType] = {
    "float32": pb.DATA_TYPE_FLOAT32,
    "float16": pb.DATA_TYPE_FLOAT16,
    "uint8": pb.DATA_TYPE_UINT8,
}
_REDUCTIONS: dict[str | None, pb.Reduction.ValueType] = {
    None: pb.REDUCTION_UNSPECIFIED,
    "mean": pb.REDUCTION_MEAN,
    "max": pb.REDUCTION_MAX,
}


def classify_request(
    images: PixelArray | list[bytes],
    *,
    top_k: int,
    features: Features | None,
    model: str,
    version: str,
    include_scores: bool,
    include_probabilities: bool,
    request_id: str,
    priority: int,
) -> pb.ClassifyRequest:
    """A ClassifyRequest message.

    The images are as images.read_images() returns them, all else as Client.classify() takes it.

    Raises:
        InvalidRequest: A value is one that the wire cannot carry.
    """
    request = pb.ClassifyRequest(
        model_name=_text("model", model),
        model_version=_text("version", version),
        id=_text("request_id", request_id),
        priority=_count("priority", priority, least=0),
        top_k=_count("top_k", top_k, least=0),
        include_scores=include_scores,
        include_probabilities=include_probabilities,
        feature_maps=[_feature_map_request(wish) for wish in feature_requests(features)],
    )
    if isinstance(images, list):
        request.encoded.images.extend(images)
    else:
        request.pixels.CopyFrom(to_tensor(images))
    return request


def classify_result(response: pb.ClassifyResponse) -> ClassifyResult:
    """The result that a ClassifyResponse message holds.

    Raises:
        ServerError: The message contradicts itself.
    """
    timings = response.timings
    return ClassifyResult(
        model_name=response.model_name,
        model_version=response.model_version,
        request_id=response.id,
        classifications=tuple(map(_classification, response.classifications)),
        scores=_matrix(response.scores) if response.HasField("scores") else None,
        probabilities=(
            _matrix(response.probabilities) if response.HasField("probabilities") else None
        ),
        feature_maps=tuple(map(_feature_map, response.feature_maps)),
        timings=Timings(
            decode_ns=timings.decode_ns,
            queue_ns=timings.queue_ns,
            compute_ns=timings.compute_ns,
            batch_size=timings.batch_size,
            batch_count=timings.batch_count,
        ),
    )


def model(message: pb.Model) -> Model:
    """The model that a Model message describes."""
    return Model(
        name=message.name,
        version=message.version,
        state=_model_state(message.state),
        state_reason=message.state_reason,
        description=message.description,
        architecture=message.architecture,
        input=ImageInput(
            height=message.input.height,
            width=message.input.width,
            channels=message.input.channels,
            mean=tuple(message.input.mean),
            std=tuple(message.input.std),
            float_input=_float_input(message.input),
        ),
        labels=tuple(message.labels),
        layers=tuple(map(_layer, message.layers)),
        max_batch_size=message.max_batch_size,
        parameter_count=message.parameter_count,
        multiply_add_count=message.multiply_add_count,
        training_data=message.training_data,
        accuracy=message.accuracy if message.HasField("accuracy") else None,
        accuracy_data=message.accuracy_data,
        execution_provider=message.execution_provider,
        metadata=dict(message.metadata),
    )


def model_list(response: pb.ListModelsResponse) -> ModelList:
    """The models that a ListModelsResponse message lists."""
    return ModelList(
        models=tuple(map(model, response.models)),
        default_model_name=response.default_model_name,
    )


def _feature_map_request(wish: FeatureRequest) -> pb.FeatureMapRequest:
    layers = [wish.layers] if isinstance(wish.layers, str) else list(wish.layers)
    if not layers:
        raise InvalidRequest('expected at least one layer, a pattern, or "all", got none')
    if wish.dtype not in _DTYPES:
        raise InvalidRequest(f"expected dtype float32, float16 or uint8, got {wish.dtype!r}")
    if wish.reduction not in _REDUCTIONS:
        raise InvalidRequest(f"expected reduction mean, max or None, got {wish.reduction!r}")
    if wish.channels is not None and wish.most_active is not None:
        raise InvalidRequest("expected channels or most_active, got both")
    request = pb.FeatureMapRequest(
        layers=layers, dtype=_DTYPES[wish.dtype], reduction=_REDUCTIONS[wish.reduction]
    )
    if wish.channels is not None:
        indices = [_count("a channel", channel, least=0) for channel in wish.channels]
        request.subset.indices.extend(indices)
        request.subset.SetInParent()  # else an empty choice would travel as none, which means all
    if wish.most_active is not None:
        request.most_active = _count("most_active", wish.most_active, least=1)
    return request


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"expected {name} as a string, got {value!r:.80}")
    return value.encode(errors="replace").decode()


def _count(name: str, value: int, *, least: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise InvalidRequest(f"expected {name} as a whole number, got {value!r:.80}") from None
    if not least <= value < 1 << 32:
        raise InvalidRequest(f"expected {name} >= {least} and below 2**32, got {value}")
    return value


def _classification(message: pb.Classification) -> Classification:
    return Classification(
        tuple(
            ClassScore(
                index=entry.index,
                label=entry.label,
                score=entry.score,
                probability=entry.probability,
            )
            for entry in message.top
        )
    )


def _feature_map(message: pb.FeatureMap) -> FeatureMap:
    values = _array(message.values)
    if values.ndim not in (2, 4):
        raise ServerError(
            f"expected feature maps of {message.layer} as (N, C, H, W) or (N, C), "
            f"got the shape {values.shape}"
        )
    return FeatureMap(
        layer=message.layer,
        values=values,
        channels=_channels(message, values.shape),
        scale=_each_image(message.layer, message.scale, len(values)),
        offset=_each_image(message.layer, message.offset, len(values)),
    )


def _channels(message: pb.FeatureMap, shape: tuple[int, ...]) -> npt.NDArray[np.int64] | None:
    if not message.channels:
        return None
    if len(message.channels) != shape[0] * shape[1]:
        raise ServerError(
            f"expected {shape[0]} x {shape[1]} channel numbers for {message.layer}, "
            f"got {len(message.channels)}"
        )
    return np.array(message.channels, np.int64).reshape(shape[:2])


def _each_image(layer: str, numbers: Sequence[float], count: int) -> Float32Array | None:
    if not numbers:
        return None
    if len(numbers) != count:
        raise ServerError(
            f"expected a scale and an offset for each of {count} images of {layer}, "
            f"got {len(numbers)}"
        )
    return np.array(numbers, np.float32)


def _matrix(tensor: pb.Tensor) -> Float32Array:
    array = _array(tensor)
    if array.dtype != np.float32 or array.ndim != 2:
        raise ServerError(f"expected scores as float32 (N, K), got {array.dtype} {array.shape}")
    return array.view(np.float32)


def _array(tensor: pb.Tensor) -> npt.NDArray[np.generic]:
    try:
        return from_tensor(tensor)
    except TensorError as error:
        raise ServerError(f"the server's answer cannot be read: {error}") from error


def _float_input(message: pb.ImageInput) -> FloatInput | None:
    if not message.HasField("float_input"):
        return None
    own = message.float_input
    names = {wire: name for name, wire in _DTYPES.items()}
    return FloatInput(
        dtype=names.get(own.dtype, str(own.dtype)), layout=own.layout, shape=tuple(own.shape)
    )


def _layer(message: pb.Layer) -> Layer:
    return Layer(
        name=message.name,
        kind=message.kind,
        volume=Volume(
            depth=message.volume.depth, height=message.volume.height, width=message.volume.width
        ),
        weight_count=message.weight_count,
        bias_count=message.bias_count,
        multiply_add_count=message.multiply_add_count,
        notation=message.notation,
    )


def _model_state(state: pb.ModelState.ValueType) -> str:
    try:
        return pb.ModelState.Name(state).removeprefix("MODEL_STATE_")
    except ValueError:  # a state that a newer server knows
        return str(state)
