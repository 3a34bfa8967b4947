"""inference.GRPCInferenceService: ModelInfer and ModelStreamInfer."""

import time
from collections.abc import AsyncIterator

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server import codec
from convscope_server.batch_request import checked_priority
from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.dispatch import failure_of
from convscope_server.errors import InvalidRequest
from convscope_server.inference import Inference, Result, Work
from convscope_server.lifecycle import Lifecycle
from convscope_server.open_inference import inputs
from convscope_server.open_inference.outputs import Outputs
from convscope_server.open_inference.parameters import Parameters, flag, integer
from convscope_server.pipeline import WaitingLine, answer_stream
from convscope_server.served_model import ServedModel
from convscope_server.served_models import Models
from convscope_server.shared_memory import SharedMemory

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_RESERVED_PREFIX = "triton_"
# Whoever sends more wants the event loop to look at them.
_MAX_PARAMETERS = 256
_FINAL_RESPONSE = "triton_final_response"
_WANTS_FINAL_RESPONSE = "triton_enable_empty_final_response"


class OpenInferenceServicer:
    """Answers inference requests from the models in service."""

    def __init__(
        self,
        models: Models,
        lifecycle: Lifecycle,
        inference: Inference,
        memory: SharedMemory,
        *,
        max_message_bytes: int,
    ) -> None:
        """Take what finds models, tells whether to answer, and answers."""
        self._models = models
        self._lifecycle = lifecycle
        self._inference = inference
        self._memory = memory
        self._max_message_bytes = max_message_bytes

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/ModelInfer": Unary(self.model_infer),
            f"/{SERVICE}/ModelStreamInfer": Stream(self.model_stream_infer, drains=True),
        }

    async def model_infer(self, message: bytes, call: Call) -> bytes:
        """Infer; see the Open Inference Protocol."""
        self._lifecycle.check_takes_requests()
        request, response = codec.parse(pb.ModelInferRequest, message), pb.ModelInferResponse()
        return await self._infer(request, response, response, call, time.monotonic())

    async def model_stream_infer(
        self, messages: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[bytes]:
        """Infer each message of a stream, answers in the order of the requests.

        A request that fails has its error as its answer, and the stream goes on; with the
        header triton_grpc_error, "true", it ends the stream with its status.
        """
        self._lifecycle.check_takes_requests()
        line = WaitingLine()
        fails_whole = call.metadata.get("triton_grpc_error") == "true"

        async def answer(message: bytes) -> bytes:
            came_s = time.monotonic()
            request, told = pb.ModelInferRequest(), pb.ModelStreamInferResponse()
            told.infer_response.parameters[_FINAL_RESPONSE].bool_param = True
            try:
                request = codec.parse(pb.ModelInferRequest, message)
                return await line.answer(
                    lambda: self._infer(request, told, told.infer_response, call, came_s)
                )
            except Exception as error:
                failure = failure_of(error, call.method)
                if fails_whole:
                    raise failure from error
                failed = pb.ModelStreamInferResponse(error_message=failure.message)
                failed.infer_response.id = request.id
                failed.infer_response.parameters[_FINAL_RESPONSE].bool_param = True
                return failed.SerializeToString()

        async for message in answer_stream(
            messages, answer, self._lifecycle, max_bytes=self._max_message_bytes
        ):
            yield message

    async def _infer(
        self,
        request: pb.ModelInferRequest,
        answer: pb.ModelInferResponse | pb.ModelStreamInferResponse,
        response: pb.ModelInferResponse,
        call: Call,
        came_s: float,
    ) -> bytes:
        """Answer a request; gives the answer's bytes, the response being its part.

        Its timeout counts from came_s, however often it is tried.
        """
        if request.parameters:
            _check_reserved(request.parameters)
        model = served_model(self._models, request.model_name, request.model_version)
        rows = inputs.row_count(inputs.input_of(request, model.info))
        model.check_size(rows)
        outputs = Outputs(request, model.info, self._memory, call.peer)
        wants_timings = bool(request.parameters) and flag(request.parameters, "timings")
        answer_bytes, placed_bytes = outputs.answer_bytes(request.id, rows)
        work = Work(
            images=inputs.images(request, model.info, self._memory, call.peer),
            plan=outputs.plan,
            request_id=request.id,
            request_bytes=inputs.size_bytes(request),
            answer_bytes=answer_bytes,
            placed_bytes=placed_bytes,
            priority=_priority(request.parameters, model.default_priority),
            deadline_s=_deadline_s(request.parameters, call.deadline_s, came_s),
        )

        def write(result: Result) -> bytes:
            response.model_name = model.name
            response.model_version = model.version
            response.id = request.id
            outputs.write(response, result.outputs)
            if wants_timings:
                _tell_timings(response, result)
            return answer.SerializeToString()

        return await self._inference.run(model, work, write)


def served_model(models: Models, name: str, version: str) -> ServedModel:
    """The model of a name, empty for the default, and version, empty for the highest.

    Raises:
        InvalidRequest: The version is no whole number.
        UnknownModel: There is no such model.
        NotReady: It is being loaded.
    """
    if version and not (version.isascii() and version.isdecimal()):
        raise InvalidRequest(
            f"failed to get model version from specified version string {version[:100]!r}: "
            "expected a whole number"
        )
    return models.get(name, version)


def _check_reserved(parameters: Parameters) -> None:
    if len(parameters) > _MAX_PARAMETERS:
        raise InvalidRequest(
            f"expected at most {_MAX_PARAMETERS} parameters, got {len(parameters)}"
        )
    for name in parameters:
        if name.startswith(_RESERVED_PREFIX) and name != _WANTS_FINAL_RESPONSE:
            raise InvalidRequest(
                f"parameter names that begin with {_RESERVED_PREFIX} are reserved: expected "
                f"{_WANTS_FINAL_RESPONSE} or another name, got {name[:100]!r}"
            )


def _priority(parameters: Parameters, default: int) -> int:
    return checked_priority(integer(parameters, "priority") or 0 if parameters else 0, default)


def _deadline_s(parameters: Parameters, deadline_s: float | None, came_s: float) -> float | None:
    """Until when the caller waits, by the call's deadline and the request's own timeout, in µs."""
    timeout_us = integer(parameters, "timeout") if parameters else None
    if not timeout_us:
        return deadline_s
    if timeout_us < 0:
        raise InvalidRequest(f"expected a timeout of at least 0 microseconds, got {timeout_us}")
    own_s = came_s + timeout_us / 1e6
    return own_s if deadline_s is None else min(own_s, deadline_s)


def _tell_timings(response: pb.ModelInferResponse, result: Result) -> None:
    computed = result.computed
    for name, value in (
        ("decode_ns", round(result.decode_s * 1e9)),
        ("queue_ns", round(computed.queue_s * 1e9)),
        ("compute_ns", round(computed.compute_s * 1e9)),
        ("batch_size", computed.batch_size),
        ("batch_count", computed.batch_count),
    ):
        response.parameters[name].int64_param = value
