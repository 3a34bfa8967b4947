"""convscope.v1.Classifier."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from functools import partial

from convscope_proto.v1 import classifier_pb2 as pb
from convscope_server import codec
from convscope_server.backend import PROBABILITIES, SCORES, ImageArray
from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.dispatch import failure_of
from convscope_server.errors import NotReady, Overloaded, ResponseTooLarge
from convscope_server.feature_maps import MapPlan
from convscope_server.lifecycle import Lifecycle
from convscope_server.memory_budget import MemoryBudget
from convscope_server.model_status import ModelState, ModelStatus
from convscope_server.pictures import decode_all
from convscope_server.pipeline import Pipeline
from convscope_server.served_model import ServedModel
from convscope_server.served_models import Models

# Answers of this size and above are written in a thread: they would hold up the event
# loop for longer than the way to a thread and back takes.
_LARGE_RESPONSE_BYTES = 256 << 10

# Of one stream, on their way at a time: a batch of single images that runs, one that gathers.
STREAM_MESSAGES = 128

SERVICE = pb.DESCRIPTOR.services_by_name["Classifier"].full_name


class ClassifierServicer:
    """Answers the Classifier service from the models in service."""

    def __init__(
        self,
        models: Models,
        lifecycle: Lifecycle,
        *,
        max_message_bytes: int,
        max_picture_pixels: int,
        max_in_flight_bytes: int,
        executor: Executor,
    ) -> None:
        """Take the models, the limits of config.ServerConfig, and threads for long work."""
        self._models = models
        self._lifecycle = lifecycle
        self._max_message_bytes = max_message_bytes
        self._max_picture_pixels = max_picture_pixels
        self._memory = MemoryBudget(max_in_flight_bytes)
        self._executor = executor

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/Classify": Unary(self.classify),
            f"/{SERVICE}/ClassifyStream": Stream(self.classify_stream, drains=True),
            f"/{SERVICE}/GetModel": Unary(self.get_model),
            f"/{SERVICE}/ListModels": Unary(self.list_models),
        }

    async def classify(self, message: bytes, call: Call) -> bytes:
        """Classify; see classifier.proto."""
        self._lifecycle.check_takes_requests()
        response = pb.ClassifyResponse()
        await self._classify(codec.parse(pb.ClassifyRequest, message), response, call)
        return response.SerializeToString()

    async def classify_stream(
        self, messages: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[bytes]:
        """Classify each message of a stream; see classifier.proto."""
        self._lifecycle.check_takes_requests()

        async def answer(message: bytes) -> bytes:
            request = pb.ClassifyRequest()
            answered = pb.ClassifyStreamResponse()
            try:
                request = codec.parse(pb.ClassifyRequest, message)
                await self._classify_when_there_is_room(request, answered.response, call)
            except Exception as error:
                failure = failure_of(error, call.method)
                answered.error.id = request.id
                answered.error.code = failure.code
                answered.error.message = failure.message
                answered.error.retry_after_ms = failure.retry_after_ms
            return answered.SerializeToString()

        pipeline = Pipeline(answer, max_messages=STREAM_MESSAGES, max_bytes=self._max_message_bytes)
        draining = self._lifecycle.no_longer_takes_requests()
        async for message in pipeline.run(messages, until=draining):
            yield message
        if not self._lifecycle.takes_requests:
            raise NotReady("the server is shutting down; send the rest to another one")

    async def _classify_when_there_is_room(
        self, request: pb.ClassifyRequest, response: pb.ClassifyResponse, call: Call
    ) -> None:
        """Classify as soon as the queue lets it: a stream holds back, it is not refused."""
        while True:
            try:
                return await self._classify(request, response, call)
            except Overloaded as error:
                if error.reason == "predicted_wait":  # waiting does not help
                    raise
                await asyncio.sleep(error.retry_after_ms / 1000)

    async def _classify(
        self, request: pb.ClassifyRequest, response: pb.ClassifyResponse, call: Call
    ) -> None:
        """Classify the request's images into the response."""
        model = self._models.get(request.model_name, request.model_version)
        with model.lease():
            await self._classify_with(model, request, response, call)

    async def _classify_with(
        self,
        model: ServedModel,
        request: pb.ClassifyRequest,
        response: pb.ClassifyResponse,
        call: Call,
    ) -> None:
        rows = codec.row_count(request)
        model.check_size(rows)
        priority = codec.priority(request, model.default_priority)
        plan = MapPlan(codec.map_requests(request), model.info)
        # What is invalid is told before what there is no room for.
        pixels: ImageArray | None = None
        if request.WhichOneof("images") == "pixels":
            pixels = codec.pixels(request.pixels, model.info)
        try:
            response_bytes = self._response_bytes(request, plan, model, rows)
            needed_bytes = request.ByteSize() + response_bytes + model.compute_bytes(rows, plan)
            with self._memory.hold(needed_bytes):
                model.check_room(rows, plan.tensors, priority=priority, deadline_s=call.deadline_s)
                decode_s = 0.0
                if pixels is None:
                    pixels, decode_s = await self._decode(request, model)
                computed = await model.compute(
                    pixels, plan.tensors, priority=priority, deadline_s=call.deadline_s
                )
                names = (SCORES, PROBABILITIES, *plan.tensors)
                outputs = dict(zip(names, computed.outputs, strict=True))
                fill = partial(codec.fill, response, request, plan, outputs, model.info.labels)
                if response_bytes < _LARGE_RESPONSE_BYTES:
                    fill()
                else:
                    await asyncio.get_running_loop().run_in_executor(self._executor, fill)
        except Overloaded as error:
            model.metrics.refused[error.reason].inc()
            raise
        except ResponseTooLarge:
            model.metrics.refused["too_large"].inc()
            raise
        response.model_name = model.name
        response.model_version = model.version
        response.id = request.id
        response.timings.CopyFrom(codec.timings(computed, decode_s))
        if plan.items:
            model.metrics.feature_map_requests.inc()
            model.metrics.feature_map_bytes.inc(plan.value_bytes(rows))
        model.metrics.classified(outputs[PROBABILITIES])

    async def get_model(self, message: bytes, call: Call) -> bytes:
        """Describe one model."""
        request = codec.parse(pb.GetModelRequest, message)
        self._lifecycle.check_takes_requests()
        status = self._models.status(request.name, request.version)
        return self._checked(pb.GetModelResponse(model=self._describe(status)).SerializeToString())

    async def list_models(self, message: bytes, call: Call) -> bytes:
        """Describe all models in short."""
        codec.parse(pb.ListModelsRequest, message)
        response = pb.ListModelsResponse(default_model_name=self._models.default_name)
        for status in self._models.statuses():
            described = self._describe(status)
            described.ClearField("layers")
            described.ClearField("metadata")
            response.models.append(described)
        return self._checked(response.SerializeToString())

    def _checked(self, answer: bytes) -> bytes:
        """An answer whose size is not known before; raises ResponseTooLarge."""
        if len(answer) > self._max_message_bytes:
            raise ResponseTooLarge(
                f"expected an answer of at most {self._max_message_bytes} bytes, got one of "
                f"{len(answer)}: the server's --max-message-bytes is too small for it"
            )
        return answer

    def _response_bytes(
        self, request: pb.ClassifyRequest, plan: MapPlan, model: ServedModel, rows: int
    ) -> int:
        """Size of the answer, at most; raises ResponseTooLarge where that is over the limit."""
        size_bytes = codec.response_bytes(request, plan, model.info, rows)
        if size_bytes > self._max_message_bytes:
            raise ResponseTooLarge(
                f"expected an answer of at most {self._max_message_bytes} bytes, got a request "
                f"for {size_bytes}, {rows} images: ask for fewer images, layers or channels, "
                "for a reduction, or for uint8"
            )
        return size_bytes

    async def _decode(
        self, request: pb.ClassifyRequest, model: ServedModel
    ) -> tuple[ImageArray, float]:
        """The request's pictures as pixels, and the seconds it took to decode them."""
        gone = threading.Event()

        def decode() -> tuple[ImageArray, float]:
            started_s = time.perf_counter()
            images = decode_all(
                request.encoded.images,
                model.info.height,
                model.info.width,
                model.info.channels,
                max_pixels=self._max_picture_pixels,
                gone=gone,
            )
            return images, time.perf_counter() - started_s

        try:
            images, decode_s = await asyncio.get_running_loop().run_in_executor(
                self._executor, decode
            )
        finally:
            gone.set()
        model.metrics.decode_seconds.observe(decode_s)
        return images, decode_s

    def _describe(self, status: ModelStatus) -> pb.Model:
        """What is known of a version: all of one that is served, else only where it stands."""
        if status.state is not ModelState.READY:
            return codec.describe_status(status)
        model = self._models.get(status.name, status.version)
        described = codec.describe(
            model.info,
            name=model.name,
            version=model.version,
            max_batch_size=model.max_batch_size,
            execution_provider=model.execution_provider,
        )
        described.state_reason = status.reason
        return described
