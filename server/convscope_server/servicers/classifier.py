"""convscope.v1.Classifier."""

import asyncio
import time
from collections.abc import AsyncIterator

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_server import codec
from convscope_server.backend import PROBABILITIES, SCORES, UInt8Array
from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.dispatch import failure_of
from convscope_server.errors import NotReady, Overloaded, ResponseTooLarge
from convscope_server.feature_maps import MapPlan
from convscope_server.lifecycle import Lifecycle, Phase
from convscope_server.pictures import decode_all
from convscope_server.pipeline import Pipeline
from convscope_server.repository import Models
from convscope_server.served_model import ServedModel

SERVICE = pb.DESCRIPTOR.services_by_name["Classifier"].full_name


class ClassifierServicer:
    """Answers the Classifier service from the models in service."""

    def __init__(
        self,
        models: Models,
        lifecycle: Lifecycle,
        *,
        max_batch_size: int,
        max_message_bytes: int,
        max_picture_pixels: int,
    ) -> None:
        """Take the models, and the limits of config.ServerConfig."""
        self._models = models
        self._lifecycle = lifecycle
        self._max_batch_size = max_batch_size
        self._max_message_bytes = max_message_bytes
        self._max_picture_pixels = max_picture_pixels

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
        self._check_phase()
        response = pb.ClassifyResponse()
        await self._classify(codec.parse(pb.ClassifyRequest, message), response, call)
        return response.SerializeToString()

    async def classify_stream(
        self, messages: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[bytes]:
        """Classify each message of a stream; see classifier.proto."""
        self._check_phase()

        async def answer(message: bytes) -> bytes:
            request = pb.ClassifyRequest()
            answered = pb.ClassifyStreamResponse()
            try:
                request = codec.parse(pb.ClassifyRequest, message)
                await self._classify(request, answered.response, call)
            except Exception as error:
                failure = failure_of(error, call.method)
                answered.error.id = request.id
                answered.error.code = failure.code
                answered.error.message = failure.message
                answered.error.retry_after_ms = failure.retry_after_ms
            return answered.SerializeToString()

        pipeline = Pipeline(
            answer,
            max_messages=2 * self._max_batch_size,  # one batch that runs, one that gathers
            max_bytes=self._max_message_bytes,
        )
        draining = self._lifecycle.no_longer_takes_requests()
        async for message in pipeline.run(messages, until=draining):
            yield message
        if not self._lifecycle.takes_requests:
            raise NotReady("the server is shutting down; send the rest to another one")

    async def _classify(
        self, request: pb.ClassifyRequest, response: pb.ClassifyResponse, call: Call
    ) -> None:
        """Classify the request's images into the response."""
        model = self._models.get(request.model_name, request.model_version)
        rows = codec.row_count(request)
        priority = codec.priority(request)
        plan = MapPlan(codec.map_requests(request), model.info)
        try:
            self._check_response_size(rows, plan, model)
            model.check_room(rows, plan.tensors, priority=priority, deadline_s=call.deadline_s)
            images, decode_s = await self._images(request, model)
            computed = await model.compute(
                images, plan.tensors, priority=priority, deadline_s=call.deadline_s
            )
        except Overloaded as error:
            model.metrics.refused[error.reason].inc()
            raise
        except ResponseTooLarge:
            model.metrics.refused["too_large"].inc()
            raise
        outputs = dict(zip((SCORES, PROBABILITIES, *plan.tensors), computed.outputs, strict=True))
        scores, probabilities = outputs[SCORES], outputs[PROBABILITIES]
        response.model_name = model.name
        response.model_version = model.version
        response.id = request.id
        response.timings.CopyFrom(codec.timings(computed, decode_s))
        top_k = request.top_k if request.HasField("top_k") else codec.DEFAULT_TOP_K
        if top_k:
            response.classifications.extend(
                codec.classifications(scores, probabilities, model.info.labels, top_k)
            )
        if request.include_scores:
            response.scores.CopyFrom(to_tensor(scores))
        if request.include_probabilities:
            response.probabilities.CopyFrom(to_tensor(probabilities))
        if plan.items:
            response.feature_maps.extend(map(codec.feature_map, plan.answers(outputs)))
            model.metrics.feature_map_requests.inc()
            model.metrics.feature_map_bytes.inc(plan.response_bytes(rows))
        model.metrics.classified(probabilities)

    async def get_model(self, message: bytes, call: Call) -> bytes:
        """Describe one model."""
        self._check_phase()
        request = codec.parse(pb.GetModelRequest, message)
        model = self._describe(self._models.get(request.name, request.version))
        return pb.GetModelResponse(model=model).SerializeToString()

    async def list_models(self, message: bytes, call: Call) -> bytes:
        """Describe all models in short."""
        codec.parse(pb.ListModelsRequest, message)
        response = pb.ListModelsResponse(default_model_name=self._models.default_name)
        for model in self._models.all():
            described = self._describe(model)
            described.ClearField("layers")
            described.ClearField("metadata")
            response.models.append(described)
        return response.SerializeToString()

    def _check_phase(self) -> None:
        if self._lifecycle.phase is Phase.STARTING:
            raise NotReady("the server is still loading its models; try again")
        if not self._lifecycle.takes_requests:
            raise NotReady("the server is shutting down; try another one")

    def _check_response_size(self, rows: int, plan: MapPlan, model: ServedModel) -> None:
        size_bytes = plan.response_bytes(rows)
        if size_bytes > self._max_message_bytes:
            raise ResponseTooLarge(
                f"expected feature maps of at most {self._max_message_bytes} bytes, got a request "
                f"for {size_bytes}, {rows} images: ask for fewer images, layers or channels, "
                "for a reduction, or for uint8"
            )

    async def _images(
        self, request: pb.ClassifyRequest, model: ServedModel
    ) -> tuple[UInt8Array, float]:
        """The request's images, and the seconds it took to decode them."""
        info = model.info
        if request.WhichOneof("images") == "pixels":
            return codec.pixels(request.pixels, info), 0.0
        started_s = time.perf_counter()
        images = await asyncio.to_thread(
            decode_all,
            request.encoded.images,
            info.height,
            info.width,
            max_pixels=self._max_picture_pixels,
        )
        decode_s = time.perf_counter() - started_s
        model.metrics.decode_seconds.observe(decode_s)
        return images, decode_s

    def _describe(self, model: ServedModel) -> pb.Model:
        return codec.describe(
            model.info,
            name=model.name,
            version=model.version,
            max_batch_size=self._max_batch_size,
            execution_provider=model.execution_provider,
        )
