"""A tiny server that speaks the wire and answers what is known beforehand.

It shares no code with the real one: what the client reads out of its answers can
only be right if the client is.
"""

import io
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from convscope_proto.tensors import from_tensor, to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1.classifier_pb2_grpc import (
    ClassifierServicer,
    add_ClassifierServicer_to_server,
)

LABELS = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())  # noqa: SIM905
MODEL = pb.Model(
    name="tiny",
    version="3",
    state=pb.MODEL_STATE_READY,
    description="CONV 2 3x3, POOL 2x2, FC 10",
    architecture="INPUT(32x32x3) -> CONV(2, 3x3) -> POOL(max, 2x2) -> FC(10)",
    input=pb.ImageInput(height=32, width=32, channels=3, mean=[0.5] * 3, std=[0.25] * 3),
    labels=LABELS,
    layers=[
        pb.Layer(
            name="conv1",
            kind="CONV",
            volume=pb.Volume(depth=2, height=32, width=32),
            weight_count=54,
            bias_count=2,
            multiply_add_count=55_296,
            notation="CONV(2, 3x3)",
        ),
        pb.Layer(
            name="pool1",
            kind="POOL",
            volume=pb.Volume(depth=2, height=16, width=16),
            notation="POOL(max, 2x2)",
        ),
        pb.Layer(
            name="fc1",
            kind="FC",
            volume=pb.Volume(depth=10, height=1, width=1),
            weight_count=5_120,
            bias_count=10,
            multiply_add_count=5_120,
            notation="FC(10)",
        ),
    ],
    max_batch_size=64,
    parameter_count=5_186,
    multiply_add_count=60_416,
    training_data="nothing",
    accuracy=0.25,
    accuracy_data="nothing, test split",
    execution_provider="CPUExecutionProvider",
    metadata={"convscope.name": '"tiny"'},
)
_SHAPES = {"conv1": (2, 32, 32), "pool1": (2, 16, 16), "fc1": (10,)}
TIMINGS = pb.Timings(decode_ns=1, queue_ns=2, compute_ns=3, batch_size=4, batch_count=5)


def scores_for(indices: list[int]) -> npt.NDArray[np.float32]:
    """What the server answers for images of these classes, float32 (N, 10)."""
    return np.stack([np.roll(np.arange(10, 0, -1, dtype=np.float32), index) for index in indices])


def probabilities_for(indices: list[int]) -> npt.NDArray[np.float32]:
    """The probabilities for images of these classes, float32 (N, 10): exact fractions of 2."""
    halves = np.array([2.0 ** -(rank + 1) for rank in range(10)], np.float32)
    return np.stack([np.roll(halves, index) for index in indices])


def values_for(layer: str, rows: int) -> npt.NDArray[np.float32]:
    """A layer's feature maps, float32; every value is another one."""
    shape = _SHAPES[layer]
    return np.arange(rows * int(np.prod(shape)), dtype=np.float32).reshape(rows, *shape) - 5


@dataclass
class FakeClassifier(ClassifierServicer):
    """Sees an image's class in the mean of its red channel: 10 for class 1, 20 for class 2, ...

    A request for the model "fail-CODE" fails with that code, one for "overloaded"
    with a hint when to try again, one for "slow" never answers.
    """

    requests: list[pb.ClassifyRequest] = field(default_factory=list)
    health: int = 1
    model: pb.Model = field(default_factory=lambda: MODEL)

    def Classify(  # noqa: N802 - gRPC's name
        self, request: pb.ClassifyRequest, context: grpc.ServicerContext
    ) -> pb.ClassifyResponse:
        self.requests.append(request)
        _fail(request.model_name, context)
        indices = _classes(request, context)
        scores, probabilities = scores_for(indices), probabilities_for(indices)
        response = pb.ClassifyResponse(
            model_name=self.model.name,
            model_version=self.model.version,
            id=request.id,
            timings=TIMINGS,
        )
        for row in range(len(indices) if request.top_k else 0):
            order = np.argsort(-scores[row])[: request.top_k]
            response.classifications.add(
                top=[
                    pb.ClassScore(
                        index=index,
                        label=self.model.labels[index],
                        score=scores[row, index],
                        probability=probabilities[row, index],
                    )
                    for index in order
                ]
            )
        if request.include_scores:
            response.scores.CopyFrom(to_tensor(scores))
        if request.include_probabilities:
            response.probabilities.CopyFrom(to_tensor(probabilities))
        names = [layer.name for layer in self.model.layers]
        for wish in request.feature_maps:
            for name in names if list(wish.layers) == ["all"] else wish.layers:
                if name not in names or name not in _SHAPES:
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unknown layer {name!r}")
                response.feature_maps.append(_feature_map(name, wish, len(indices)))
        return response

    def ClassifyStream(  # noqa: N802
        self, request_iterator: Iterator[pb.ClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ClassifyStreamResponse]:
        for request in request_iterator:
            yield pb.ClassifyStreamResponse(response=self.Classify(request, context))

    def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: grpc.ServicerContext
    ) -> pb.GetModelResponse:
        _fail(request.name, context)
        if request.name not in ("", self.model.name):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {request.name!r}")
        return pb.GetModelResponse(model=self.model)

    def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            models=[pb.Model(name="other", version="1", state=pb.MODEL_STATE_LOADING), self.model],
            default_model_name=self.model.name,
        )


class _Health(grpc.GenericRpcHandler):
    """grpc.health.v1 by hand, byte for byte as its specification has it."""

    def __init__(self, fake: FakeClassifier) -> None:
        self._fake = fake

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        if handler_call_details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _check(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        if message not in (b"", b"\x0a\x04tiny"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {message!r}")
        return bytes([0x08, self._fake.health]) if self._fake.health else b""


@contextmanager
def serving(fake: FakeClassifier) -> Iterator[str]:
    """Serve on a free port; gives the address."""
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        options=[("grpc.max_receive_message_length", 64 << 20)],
    )
    add_ClassifierServicer_to_server(fake, server)
    server.add_generic_rpc_handlers((_Health(fake),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(5)


def solid(index: int) -> npt.NDArray[np.uint8]:
    """Pixels, uint8 (32, 32, 3), that the server takes for class index."""
    return np.full((32, 32, 3), (index * 10, 99, 200), np.uint8)


def _fail(name: str, context: grpc.ServicerContext) -> None:
    if name.startswith("fail-"):
        code = grpc.StatusCode[name.removeprefix("fail-")]
        context.abort(code, f"the server's own words for {code.name}")
    if name == "overloaded":
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "250"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
    if name == "slow":
        ended = threading.Event()
        if context.add_callback(ended.set):
            ended.wait(10)


def _classes(request: pb.ClassifyRequest, context: grpc.ServicerContext) -> list[int]:
    if request.WhichOneof("images") == "pixels":
        pixels = from_tensor(request.pixels)
        return [round(float(image[..., 0].mean()) / 10) for image in pixels]
    indices = []
    for number, content in enumerate(request.encoded.images):
        try:
            image = Image.open(io.BytesIO(content)).convert("RGB")
        except UnidentifiedImageError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"picture {number}: not a picture")
        indices.append(round(float(np.asarray(image)[..., 0].mean()) / 10))
    return indices


def _feature_map(name: str, wish: pb.FeatureMapRequest, rows: int) -> pb.FeatureMap:
    values = values_for(name, rows)
    feature_map = pb.FeatureMap(layer=name)
    if wish.WhichOneof("channels") == "subset":
        indices = list(wish.subset.indices)
        values = values[:, indices]
        feature_map.channels.extend(indices * rows)
    if wish.WhichOneof("channels") == "most_active":
        order = list(range(values.shape[1]))[::-1][: wish.most_active]
        values = values[:, order]
        feature_map.channels.extend(order * rows)
    if wish.reduction == pb.REDUCTION_MAX:
        values = values.max(axis=1, keepdims=True)
        del feature_map.channels[:]
    if wish.dtype == pb.DATA_TYPE_UINT8:
        feature_map.values.CopyFrom(to_tensor(np.full(values.shape, 4, np.uint8)))
        feature_map.scale.extend([0.5 + row for row in range(rows)])
        feature_map.offset.extend([-1.0] * rows)
    elif wish.dtype == pb.DATA_TYPE_FLOAT16:
        feature_map.values.CopyFrom(to_tensor(values.astype(np.float16)))
    else:
        feature_map.values.CopyFrom(to_tensor(values))
    return feature_map
