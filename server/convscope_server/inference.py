"""Runs the requests of every service: room, memory, pictures, the model, the answer's writing."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from convscope_server.backend import PROBABILITIES, SCORES, Float32Array, ImageArray
from convscope_server.batch_request import Computed
from convscope_server.errors import DeadlineExceeded, Overloaded, ResponseTooLarge
from convscope_server.feature_maps import MapPlan
from convscope_server.memory_budget import MemoryBudget
from convscope_server.pictures import decode_all
from convscope_server.served_model import ServedModel
from convscope_server.trace import Trace, Tracer

# Answers that are, or are made from, this much and more are written in a thread: they would
# hold up the event loop for longer than the way to a thread and back takes.
_LARGE_ANSWER_BYTES = 256 << 10
# Of a request's id in its trace: an id may be as long as a message.
_MAX_TRACED_ID_LENGTH = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one request asks of a model.

    Attributes:
        images: Pixels as ServedModel.compute() takes them, or picture files.
        plan: The feature maps it wants.
        request_id: The caller's name for it.
        request_bytes: Size of its message, and of its input in shared memory.
        answer_bytes: Size of its answer's message, at most.
        priority: 1 to 9, 1 served first.
        deadline_s: When the caller stops waiting, in time.monotonic() seconds.
        placed_bytes: Size of what is written into shared memory instead, at most.
    """

    images: ImageArray | Sequence[bytes]
    plan: MapPlan
    request_id: str
    request_bytes: int
    answer_bytes: int
    priority: int
    deadline_s: float | None
    placed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it.

    Attributes:
        outputs: Scores, probabilities and the plan's tensors by name, float32.
        computed: How it was computed.
        decode_s: How long its pictures took to decode.
        queued_s, computed_s: When it joined the queue, and when all of it was computed, in
            time.perf_counter() seconds.
    """

    outputs: Mapping[str, Float32Array]
    computed: Computed
    decode_s: float
    queued_s: float
    computed_s: float


class Inference:
    """Everything between a service's messages and the models' queues."""

    def __init__(
        self,
        *,
        max_message_bytes: int,
        max_picture_pixels: int,
        max_in_flight_bytes: int,
        executor: Executor,
        tracer: Tracer,
    ) -> None:
        """Take the limits of config.ServerConfig, threads for long work, and what traces."""
        self._tracer = tracer
        self._max_message_bytes = max_message_bytes
        self._max_picture_pixels = max_picture_pixels
        self._memory = MemoryBudget(max_in_flight_bytes)
        self._executor = executor

    async def run(self, model: ServedModel, work: Work, write: Callable[[Result], T]) -> T:
        """Compute what a request asks for, and write its answer.

        Must be awaited in the same turn of the event loop in which the model was found;
        from then on the model stays, even if it leaves service.

        Args:
            model: What computes.
            work: The request.
            write: Makes the answer; of large ones in a thread.

        Raises:
            InvalidRequest: A picture is broken or too large, or there are too many.
            ResponseTooLarge: The answer would be larger than a message may be.
            Overloaded: There is no room in the queue or in memory, or not in time.
            ServerError: As in Scheduler.submit.
        """
        started_s = time.perf_counter()
        model.take_lease()
        try:
            result, answer = await self._run(model, work, write)
        except BaseException as error:
            if isinstance(error, Overloaded):
                # Not failed: of a stream it is tried again.
                model.metrics.refused[error.reason].inc()
            else:
                model.metrics.statistics.fail.add(time.perf_counter() - started_s)
            if isinstance(error, ResponseTooLarge):
                model.metrics.refused["too_large"].inc()
            raise
        finally:
            model.end_lease()
        ended_s = time.perf_counter()
        rows = len(work.images)
        if work.plan.items:
            model.metrics.feature_map_requests.inc()
            model.metrics.feature_map_bytes.inc(work.plan.value_bytes(rows))
        model.metrics.statistics.succeeded(
            rows,
            total_s=ended_s - started_s,
            queue_s=result.computed.queue_s,
            decode_s=result.decode_s,
            compute_s=result.computed.compute_s,
            write_s=ended_s - result.computed_s,
        )
        if self._tracer.enabled and self._tracer.takes(model.name):
            self._tracer.add(_trace(model, work, result, started_s, ended_s))
        return answer

    async def _run(
        self, model: ServedModel, work: Work, write: Callable[[Result], T]
    ) -> tuple[Result, T]:
        rows, plan, deadline_s = len(work.images), work.plan, work.deadline_s
        if deadline_s is not None and deadline_s <= time.monotonic():
            # Before it is refused for want of room: a stream would try it again for ever.
            raise DeadlineExceeded("the deadline passed before the request was queued")
        if work.answer_bytes > self._max_message_bytes:
            raise ResponseTooLarge(
                f"expected an answer of at most {self._max_message_bytes} bytes, got a request "
                f"for {work.answer_bytes}, {rows} images: ask for fewer images, layers or "
                "channels, for a reduction, or for uint8"
            )
        written_bytes = work.answer_bytes + work.placed_bytes
        needed_bytes = work.request_bytes + written_bytes + model.compute_bytes(rows, plan)
        self._memory.hold(needed_bytes)
        try:
            images, decode_s = work.images, 0.0
            if plan.tensors or not isinstance(images, np.ndarray):
                # Before the work of decoding, or of building a session.
                model.check_room(rows, plan.tensors, priority=work.priority, deadline_s=deadline_s)
            if not isinstance(images, np.ndarray):
                images, decode_s = await self._decode(images, model)
            queued_s = time.perf_counter()
            computed = await model.compute(
                images, plan.tensors, priority=work.priority, deadline_s=deadline_s
            )
            names = (SCORES, PROBABILITIES, *plan.tensors)
            outputs = dict(zip(names, computed.outputs, strict=True))
            result = Result(outputs, computed, decode_s, queued_s, time.perf_counter())
            # A small answer may be a reduction of large activations.
            if max(written_bytes, plan.activation_bytes(rows)) < _LARGE_ANSWER_BYTES:
                return result, write(result)
            return result, await in_thread(self._executor, partial(write, result))
        finally:
            self._memory.release(needed_bytes)

    async def _decode(
        self, pictures: Sequence[bytes], model: ServedModel
    ) -> tuple[ImageArray, float]:
        """Pictures as pixels, and the seconds it took to decode them."""
        info, gone = model.info, threading.Event()

        def decode() -> tuple[ImageArray, float]:
            started_s = time.perf_counter()
            images = decode_all(
                pictures,
                info.height,
                info.width,
                info.channels,
                max_pixels=self._max_picture_pixels,
                gone=gone,
            )
            return images, time.perf_counter() - started_s

        images, decode_s = await in_thread(self._executor, decode, on_cancel=gone.set)
        model.metrics.decode_seconds.observe(decode_s)
        return images, decode_s


async def in_thread(
    executor: Executor, work: Callable[[], T], *, on_cancel: Callable[[], None] = lambda: None
) -> T:
    """Run something in a thread.

    If the caller is cancelled, work that has not begun never does, and other work is waited
    for: what is held for it must stay until then.

    Args:
        executor: Whose thread.
        work: What to run.
        on_cancel: Told when the caller is cancelled, so that the work may end early.
    """
    job = executor.submit(work)
    try:
        return await asyncio.wrap_future(job)
    except asyncio.CancelledError:
        on_cancel()
        if not job.cancel():
            await asyncio.gather(asyncio.wrap_future(job), return_exceptions=True)
        raise


def _trace(
    model: ServedModel, work: Work, result: Result, started_s: float, ended_s: float
) -> Trace:
    computing_s = result.queued_s + result.computed.queue_s
    return Trace(
        model.name,
        model.version,
        work.request_id[:_MAX_TRACED_ID_LENGTH],
        tuple(
            (name, round(seconds * 1e9))
            for name, seconds in (
                # Triton's trace_summary.py leaves out what has no such stamp. When a message
                # was waited for is not known here.
                ("GRPC_WAITREAD_START", started_s),
                ("REQUEST_START", started_s),
                ("QUEUE_START", result.queued_s),
                ("COMPUTE_START", computing_s),
                # Rows are put together within the batch's time: nothing of it is apart.
                ("COMPUTE_INPUT_END", computing_s),
                ("COMPUTE_OUTPUT_START", result.computed_s),
                ("COMPUTE_END", ended_s),
                ("REQUEST_END", ended_s),
            )
        ),
    )
