"""convscope.v1.Classifier."""

import asyncio
import time

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_server import codec
from convscope_server.backend import PROBABILITIES, SCORES, UInt8Array
from convscope_server.call import Call, Methods, Unary
from convscope_server.errors import Overloaded, ResponseTooLarge
from convscope_server.feature_maps import MapPlan
from convscope_server.lifecycle import Lifecycle
from convscope_server.model_status import ModelState, ModelStatus
from convscope_server.pictures import decode_all
from convscope_server.served_model import ServedModel
from convscope_server.served_models import Models

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
    ) -> None:
        """Take the models, and the limits of config.ServerConfig."""
        self._models = models
        self._lifecycle = lifecycle
        self._max_message_bytes = max_message_bytes
        self._max_picture_pixels = max_picture_pixels

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/Classify": Unary(self.classify),
            f"/{SERVICE}/GetModel": Unary(self.get_model),
            f"/{SERVICE}/ListModels": Unary(self.list_models),
        }

    async def classify(self, message: bytes, call: Call) -> bytes:
        """Classify; see classifier.proto."""
        request = codec.parse(pb.ClassifyRequest, message)
        self._lifecycle.check_takes_requests()
        model = self._models.get(request.model_name, request.model_version)
        with model.lease():
            return await self._classify(request, model, call)

    async def _classify(self, request: pb.ClassifyRequest, model: ServedModel, call: Call) -> bytes:
        rows = codec.row_count(request)
        plan = MapPlan(codec.map_requests(request), model.info)
        try:
            self._check_response_size(rows, plan, model)
            model.check_room(rows)
            images, decode_s = await self._images(request, model)
            computed = await model.compute(images, plan.tensors, call.deadline_s)
        except Overloaded:
            model.metrics.refused["overloaded"].inc()
            raise
        except ResponseTooLarge:
            model.metrics.refused["too_large"].inc()
            raise
        outputs = dict(zip((SCORES, PROBABILITIES, *plan.tensors), computed.outputs, strict=True))
        scores, probabilities = outputs[SCORES], outputs[PROBABILITIES]
        response = pb.ClassifyResponse(
            model_name=model.name,
            model_version=model.version,
            id=request.id,
            timings=codec.timings(computed, decode_s),
        )
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
        return response.SerializeToString()

    async def get_model(self, message: bytes, call: Call) -> bytes:
        """Describe one model."""
        request = codec.parse(pb.GetModelRequest, message)
        self._lifecycle.check_takes_requests()
        status = self._models.status(request.name, request.version)
        return pb.GetModelResponse(model=self._describe(status)).SerializeToString()

    async def list_models(self, message: bytes, call: Call) -> bytes:
        """Describe all models in short."""
        codec.parse(pb.ListModelsRequest, message)
        response = pb.ListModelsResponse(default_model_name=self._models.default_name)
        for status in self._models.statuses():
            described = self._describe(status)
            described.ClearField("layers")
            described.ClearField("metadata")
            response.models.append(described)
        return response.SerializeToString()

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
