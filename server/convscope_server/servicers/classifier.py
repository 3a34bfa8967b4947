"""convscope.v1.Classifier."""

from collections.abc import AsyncIterator

from convscope_proto.v1 import classifier_pb2 as pb
from convscope_server import codec
from convscope_server.batch_request import checked_priority
from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.dispatch import failure_of
from convscope_server.errors import ResponseTooLarge
from convscope_server.feature_maps import MapPlan
from convscope_server.inference import Inference, Result, Work
from convscope_server.lifecycle import Lifecycle
from convscope_server.model_status import ModelState, ModelStatus
from convscope_server.pipeline import WaitingLine, answer_stream
from convscope_server.served_models import Models

SERVICE = pb.DESCRIPTOR.services_by_name["Classifier"].full_name


class ClassifierServicer:
    """Answers the Classifier service from the models in service."""

    def __init__(
        self,
        models: Models,
        lifecycle: Lifecycle,
        inference: Inference,
        *,
        max_message_bytes: int,
    ) -> None:
        """Take what finds models, tells whether to answer, and answers; and the limit."""
        self._models = models
        self._lifecycle = lifecycle
        self._inference = inference
        self._max_message_bytes = max_message_bytes

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
        return await self._classify(
            codec.parse(pb.ClassifyRequest, message), response, response, call
        )

    async def classify_stream(
        self, messages: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[bytes]:
        """Classify each message of a stream; see classifier.proto."""
        self._lifecycle.check_takes_requests()
        line = WaitingLine()

        async def answer(message: bytes) -> bytes:
            request = pb.ClassifyRequest()
            answer = pb.ClassifyStreamResponse()
            try:
                request = codec.parse(pb.ClassifyRequest, message)
                return await line.answer(
                    lambda: self._classify(request, answer, answer.response, call)
                )
            except Exception as error:
                failure = failure_of(error, call.method)
                answer.error.id = request.id
                answer.error.code = failure.code
                answer.error.message = failure.message
                answer.error.retry_after_ms = failure.retry_after_ms
            return answer.SerializeToString()

        async for message in answer_stream(
            messages, answer, self._lifecycle, max_bytes=self._max_message_bytes
        ):
            yield message

    async def _classify(
        self,
        request: pb.ClassifyRequest,
        answer: pb.ClassifyResponse | pb.ClassifyStreamResponse,
        response: pb.ClassifyResponse,
        call: Call,
    ) -> bytes:
        """Classify the request's images; gives the answer's bytes, the response being its part."""
        model = self._models.get(request.model_name, request.model_version)
        rows = codec.row_count(request)
        model.check_size(rows)
        plan = MapPlan(codec.map_requests(request), model.info)
        work = Work(
            images=codec.images(request, model.info),
            plan=plan,
            request_id=request.id,
            request_bytes=request.ByteSize(),
            answer_bytes=codec.response_bytes(request, plan, model.info, rows),
            priority=checked_priority(request.priority, model.default_priority),
            deadline_s=call.deadline_s,
        )

        def write(result: Result) -> bytes:
            codec.fill(response, request, plan, result, model.info.labels)
            response.model_name = model.name
            response.model_version = model.version
            return answer.SerializeToString()

        return await self._inference.run(model, work, write)

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
