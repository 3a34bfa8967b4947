"""Dynamic batching: many small requests in, few larger batches out.

A batch is cut as soon as a worker is free and holds all that is waiting for the
same session, up to max_batch_size rows; there is no timer, unless max_delay_s asks
for one. Knows neither gRPC nor ONNX Runtime. Everything happens on one event loop,
but for Session.run of models that take long enough to be worth a thread.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np

from convscope_server.backend import ImageArray, Session
from convscope_server.batch_queue import BatchQueue, Observer, QueueLimits, late_or
from convscope_server.batch_request import DEFAULT_PRIORITY, Arrays, Batch, Computed, Request
from convscope_server.errors import BackendFailure, NotReady, ServerError

log = logging.getLogger(__name__)


class Scheduler:
    """The queue of one model, and the workers that compute its batches.

    Attributes:
        limits: How much may wait, and how large a batch is.
        worker_count: Batches that are computed at a time.
    """

    def __init__(
        self,
        limits: QueueLimits,
        observer: Observer,
        *,
        worker_count: int = 1,
        full_batch_s: float = 0.0,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with an empty queue.

        Args:
            limits: How much may wait, and how large a batch is.
            observer: Told of what happens.
            worker_count: Batches that are computed at a time, each in a thread. Those of
                sessions that are run inline are computed on the event loop instead, one
                a turn of it.
            full_batch_s: What a full batch is known to take; 0 if that is not known.
            executor: Where batches are computed; default: threads of its own.
            clock: Seconds, as deadlines are written in.
        """
        self._queue = BatchQueue(
            limits, observer, worker_count=worker_count, full_batch_s=full_batch_s
        )
        self.limits = limits
        self.worker_count = worker_count
        self._observer = observer
        self._clock = clock
        # Starts no thread before the first batch.
        self._executor = executor or ThreadPoolExecutor(
            worker_count, thread_name_prefix="convscope-batch"
        )
        self._free_workers = worker_count
        self._batches: set[asyncio.Task[None]] = set()
        self._wakes = False
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    def check_size(self, rows: int, size_bytes: int) -> None:
        """Whether the queue could ever hold such a request; raises InvalidRequest if not."""
        self._queue.check_size(rows, size_bytes)

    def check_room(
        self,
        rows: int,
        size_bytes: int,
        session: Session | None,
        *,
        tapped: bool = False,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
    ) -> None:
        """Whether a request could join the queue now and be in time.

        Args:
            rows: Of the request.
            size_bytes: Of its images.
            session: What is to compute it; None if that is not known yet.
            tapped: As for submit(), as are the others.
            priority: See tapped.
            deadline_s: See tapped.

        Raises:
            Overloaded: The queue is full, or so long that the deadline would pass in it.
            InvalidRequest: There are more rows than the queue can ever hold.
        """
        wait_s = math.inf if deadline_s is None else deadline_s - self._clock()
        self._queue.check_room(
            rows, size_bytes, session, tapped=tapped, priority=priority, wait_s=wait_s
        )

    async def submit(
        self,
        images: ImageArray,
        session: Session,
        *,
        tapped: bool = False,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
    ) -> Computed:
        """Queue one request and wait for its rows.

        Cancelling the caller's task takes the rows that still wait out of the queue.

        Args:
            images: N >= 1 rows of what the session takes; must stay unchanged until the
                answer.
            session: What computes them; requests for the same one share batches.
            tapped: Whether that session returns feature maps.
            priority: 1 to 9, 1 served first.
            deadline_s: Until when rows may be taken into a batch, on the clock.

        Raises:
            Overloaded: The queue is full, or so long that the deadline would pass in it.
            InvalidRequest: There are more rows than the queue can ever hold.
            DeadlineExceeded: The deadline passed in the queue; what was left did not run.
            NotReady: The scheduler is closed.
            BackendFailure: The runtime failed.
        """
        if self._closed:
            raise NotReady("the model is being unloaded; try again")
        done: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        request = Request(
            images, session, tapped, priority, deadline_s, done, joined_s=self._clock()
        )
        self._queue.add(request)
        self._wake()
        try:
            return await done
        except asyncio.CancelledError:
            if done.done() and not done.cancelled():
                done.exception()  # nobody is left to hear it: say that it was heard
            self._queue.drop(request, late_or("cancelled", deadline_s, self._clock()))
            self._queue.tell_size()
            raise

    async def close(self) -> None:
        """Refuse new requests, fail those that wait, and wait for batches that run."""
        self._closed = True
        self._queue.fail_all(NotReady("the model is being unloaded; try again"), "closed")
        self._queue.tell_size()
        if self._alarm:
            self._alarm.cancel()
        await asyncio.gather(*self._batches, return_exceptions=True)
        self._executor.shutdown()

    def _wake(self) -> None:
        """Cut batches once everything that the event loop has at hand has joined the queue."""
        if not self._wakes:
            self._wakes = True
            asyncio.get_running_loop().call_soon(self._start_batches)

    def _start_batches(self) -> None:
        self._wakes = False
        while batch := self._queue.cut(self._clock(), threads_free=self._free_workers > 0):
            if batch.session.inline:
                self._compute_here(batch)
                self._wake()  # the event loop has its turn first
                return
            self._free_workers -= 1
            task = asyncio.get_running_loop().create_task(self._compute_in_thread(batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)
        self._queue.tell_size()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Come back when what waits for more rows has waited long enough."""
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        due_s = self._queue.next_due_s(threads_free=self._free_workers > 0)
        if due_s < math.inf:
            delay_s = max(0.0, due_s - self._clock())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self._wake)

    async def _compute_in_thread(self, batch: Batch) -> None:
        started_s = self._clock()
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._executor, _run, batch)
        except Exception as error:
            self._fail(batch, error, self._clock() - started_s)
        else:
            self._hand_out(batch, outputs, self._clock() - started_s)
        finally:
            self._free_workers += 1
            self._wake()

    def _compute_here(self, batch: Batch) -> None:
        started_s = self._clock()
        try:
            outputs = _run(batch)
        except Exception as error:
            self._fail(batch, error, self._clock() - started_s)
        else:
            self._hand_out(batch, outputs, self._clock() - started_s)

    def _hand_out(self, batch: Batch, outputs: Arrays, compute_s: float) -> None:
        rows = batch.rows
        self._queue.charge(batch, compute_s)
        self._queue.learn(batch, compute_s)
        self._observer.batch_done(outputs, compute_s, batch.cut_reason)
        first = 0
        for piece in batch.slices:
            last = first + len(piece.images)
            request = piece.request
            request.parts[piece.start] = [output[first:last] for output in outputs]
            request.compute_s += compute_s
            request.batch_size = max(request.batch_size, rows)
            request.running -= 1
            first = last
            if not request.waiting_rows and not request.running and not request.done.done():
                try:
                    request.done.set_result(_computed(request))
                except Exception as error:  # such as MemoryError: the others have their answers
                    self._fail_one(request, error)

    def _fail(self, batch: Batch, error: Exception, compute_s: float) -> None:
        self._queue.charge(batch, compute_s)
        self._observer.batch_failed()
        for piece in batch.slices:
            self._fail_one(piece.request, error)

    def _fail_one(self, request: Request, error: Exception) -> None:
        if not isinstance(error, ServerError):  # a defect must not hang the callers
            log.error("a batch failed as none should; this is a bug", exc_info=error)
            error = BackendFailure("the batch failed; the server's log has the details")
        self._queue.fail(request, error)


def _run(batch: Batch) -> Arrays:
    pieces = [piece.images for piece in batch.slices]
    images = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    outputs = batch.session.run(images)
    if any(len(output) != len(images) for output in outputs):
        raise BackendFailure(
            f"expected {len(images)} rows of every output, got "
            f"{', '.join(str(len(output)) for output in outputs)}"
        )
    return outputs


def _computed(request: Request) -> Computed:
    parts = [request.parts[start] for start in sorted(request.parts)]
    outputs: Arrays = parts[0]
    if len(parts) > 1:
        outputs = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    return Computed(
        outputs=outputs,
        queue_s=request.queue_s,
        compute_s=request.compute_s,
        batch_size=request.batch_size,
        batch_count=len(parts),
    )
