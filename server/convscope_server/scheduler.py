"""Dynamic batching: many small requests in, few larger batches out.

A batch is cut as soon as a worker is free and holds all that is waiting for the
same session, up to max_batch_size rows; there is no timer. Knows neither gRPC
nor ONNX Runtime. Everything happens on one event loop, but for Session.run of
models that take long enough to be worth a thread.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from convscope_server.backend import Float32Array, Session, UInt8Array
from convscope_server.errors import (
    BackendFailure,
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    Overloaded,
    ServerError,
)

log = logging.getLogger(__name__)

Arrays = Sequence[Float32Array]


class Observer(Protocol):
    """Whoever counts what the scheduler does; metrics.ModelMetrics does."""

    def queue_changed(self, rows: int, size_bytes: int) -> None:
        """The queue now holds this many rows, of this many bytes."""

    def batch_done(self, rows: int, compute_s: float) -> None:
        """A batch of this many rows was computed."""

    def queued(self, queue_s: float) -> None:
        """A request left the queue after this time, its last row in a batch."""

    def dropped(self, reason: str, rows: int) -> None:
        """Rows left the queue without being computed: "deadline", "cancelled", "failed"."""


@dataclass(slots=True)
class Computed:
    """What became of one request.

    Attributes:
        outputs: The session's outputs for this request's rows, in its order.
        queue_s: From joining the queue until the last row was taken.
        compute_s: All batches that held one of its rows, together.
        batch_size: Rows in the largest of those batches, other requests' included.
        batch_count: How many batches those were.
    """

    outputs: Arrays
    queue_s: float
    compute_s: float
    batch_size: int
    batch_count: int


@dataclass(slots=True, eq=False)
class _Request:
    images: UInt8Array
    session: Session
    deadline_s: float | None
    done: asyncio.Future[Computed]
    joined_s: float
    sequence: int
    row_bytes: int
    taken: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_size: int = 0
    running: int = 0
    # Outputs by the first row they belong to: batches may finish in any order.
    parts: dict[int, Arrays] = field(default_factory=dict)

    @property
    def waiting_rows(self) -> int:
        return len(self.images) - self.taken


@dataclass(slots=True)
class _Slice:
    """Consecutive rows of a request, as they sit in a batch."""

    request: _Request
    start: int
    images: UInt8Array


class Scheduler:
    """The queue of one model, and the workers that compute its batches."""

    def __init__(
        self,
        *,
        max_batch_size: int,
        max_queue_rows: int,
        max_queue_bytes: int,
        observer: Observer,
        worker_count: int = 1,
        inline: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with an empty queue.

        Args:
            max_batch_size: Most rows in one batch.
            max_queue_rows: Most rows that wait; more are refused.
            max_queue_bytes: Most bytes of images that wait; more are refused.
            observer: Told of what happens.
            worker_count: Batches that are computed at a time, each in a thread.
            inline: Compute on the event loop instead, one batch a turn of it: for
                models that are done before another thread would have woken up.
            clock: Seconds, as deadlines are written in.
        """
        self._max_batch_size = max_batch_size
        self._max_queue_rows = max_queue_rows
        self._max_queue_bytes = max_queue_bytes
        self._observer = observer
        self._clock = clock
        self._inline = inline
        # Starts no thread before the first batch.
        self._executor = ThreadPoolExecutor(worker_count, thread_name_prefix="convscope-batch")
        self._free_workers = worker_count
        self._batches: set[asyncio.Task[None]] = set()
        # Requests by session, each in order of arrival; a session without any has no entry.
        self._queues: dict[Session, deque[_Request]] = {}
        self._sequence = itertools.count()
        self._queued_rows = 0
        self._queued_bytes = 0
        self._row_s = 0.0  # what a row took in the last batch
        self._wakes = False
        self._closed = False

    async def submit(
        self, images: UInt8Array, session: Session, *, deadline_s: float | None = None
    ) -> Computed:
        """Queue one request and wait for its rows.

        Cancelling the caller's task takes the rows that still wait out of the queue.

        Args:
            images: uint8, (N, H, W, 3), N >= 1; must stay unchanged until the answer.
            session: What computes them; requests for the same one share batches.
            deadline_s: Until when rows may be taken from the queue, on the clock.

        Raises:
            Overloaded: The queue is full.
            InvalidRequest: There are more rows than the queue can ever hold.
            DeadlineExceeded: The deadline passed before the last row was taken.
            NotReady: The scheduler was closed.
            BackendFailure: The runtime failed on a batch with one of the rows.
        """
        self._admit(images)
        loop = asyncio.get_running_loop()
        request = _Request(
            images=images,
            session=session,
            deadline_s=deadline_s,
            done=loop.create_future(),
            joined_s=self._clock(),
            sequence=next(self._sequence),
            row_bytes=images.nbytes // len(images),
        )
        self._queues.setdefault(session, deque()).append(request)
        self._count(request, len(images))
        self._wake()
        try:
            return await request.done
        except asyncio.CancelledError:
            late = deadline_s is not None and self._clock() >= deadline_s
            self._drop(request, "deadline" if late else "cancelled")
            raise

    async def close(self) -> None:
        """Refuse new requests, fail those that wait, and wait for batches that run."""
        self._closed = True
        for request in [request for queue in self._queues.values() for request in queue]:
            self._fail(request, NotReady("the model is being unloaded; try again"), "failed")
        self._queues.clear()
        await asyncio.gather(*self._batches)
        self._executor.shutdown()

    def _admit(self, images: UInt8Array) -> None:
        if self._closed:
            raise NotReady("the model is being unloaded; try again")
        rows, size_bytes = len(images), images.nbytes
        if rows > self._max_queue_rows or size_bytes > self._max_queue_bytes:
            raise InvalidRequest(
                f"expected at most {self._max_queue_rows} images and {self._max_queue_bytes} bytes "
                f"of pixels in a request, got {rows} images and {size_bytes} bytes: "
                "send several requests"
            )
        if (
            self._queued_rows + rows > self._max_queue_rows
            or self._queued_bytes + size_bytes > self._max_queue_bytes
        ):
            raise Overloaded(
                f"the queue is full: {self._queued_rows} images of at most {self._max_queue_rows} "
                f"wait, and {rows} more came; try again later",
                retry_after_ms=max(1, round(1000 * self._row_s * self._queued_rows)),
            )

    def _wake(self) -> None:
        """Cut batches once everything that the event loop has at hand has joined the queue."""
        if not self._wakes:
            self._wakes = True
            asyncio.get_running_loop().call_soon(self._start_batches)

    def _start_batches(self) -> None:
        self._wakes = False
        if self._inline:
            if batch := self._cut_batch():
                self._compute_here(batch)
            if self._queues:
                self._wake()
            return
        while self._free_workers and (batch := self._cut_batch()):
            self._free_workers -= 1
            task = asyncio.get_running_loop().create_task(self._compute_in_thread(batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    def _cut_batch(self) -> list[_Slice]:
        """Take rows for the session whose first request has waited longest.

        Whoever waits longest decides, so a session that few ask for never starves,
        and its one batch holds up the others no longer than a batch takes.
        """
        while self._queues:
            queue = min(self._queues.values(), key=lambda waiting: waiting[0].sequence)
            session = queue[0].session
            now_s = self._clock()
            room = self._max_batch_size
            batch: list[_Slice] = []
            while queue and room:
                request = queue[0]
                if request.done.done():  # cancelled, or failed in another batch
                    queue.popleft()
                    continue
                if request.deadline_s is not None and now_s >= request.deadline_s:
                    queue.popleft()
                    error = DeadlineExceeded("the deadline passed while the request was queued")
                    self._fail(request, error, "deadline")
                    continue
                rows = min(room, request.waiting_rows)
                images = request.images[request.taken : request.taken + rows]
                batch.append(_Slice(request, request.taken, images))
                room -= rows
                request.taken += rows
                request.running += 1
                self._count(request, -rows)
                if not request.waiting_rows:
                    queue.popleft()
                    request.queue_s = now_s - request.joined_s
                    self._observer.queued(request.queue_s)
            if not queue:
                del self._queues[session]
            if batch:
                return batch
        return []

    async def _compute_in_thread(self, batch: list[_Slice]) -> None:
        started_s = self._clock()
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._executor, _run, batch)
        except Exception as error:
            self._fail_batch(batch, error)
        else:
            self._hand_out(batch, outputs, self._clock() - started_s)
        finally:
            self._free_workers += 1
            self._wake()

    def _compute_here(self, batch: list[_Slice]) -> None:
        started_s = self._clock()
        try:
            outputs = _run(batch)
        except Exception as error:
            self._fail_batch(batch, error)
        else:
            self._hand_out(batch, outputs, self._clock() - started_s)

    def _hand_out(self, batch: list[_Slice], outputs: Arrays, compute_s: float) -> None:
        rows = sum(len(piece.images) for piece in batch)
        self._row_s = compute_s / rows
        self._observer.batch_done(rows, compute_s)
        first = 0
        for piece in batch:
            last = first + len(piece.images)
            request = piece.request
            request.parts[piece.start] = [output[first:last] for output in outputs]
            request.compute_s += compute_s
            request.batch_size = max(request.batch_size, rows)
            request.running -= 1
            first = last
            if not request.waiting_rows and not request.running and not request.done.done():
                request.done.set_result(_computed(request))

    def _fail_batch(self, batch: list[_Slice], error: Exception) -> None:
        if not isinstance(error, ServerError):  # a defect of a session must not hang its callers
            log.error("a session failed as none should; this is a bug", exc_info=error)
            error = BackendFailure("the batch failed; the server's log has the details")
        for piece in batch:
            self._fail(piece.request, error, "failed")

    def _drop(self, request: _Request, reason: str) -> None:
        """Let go of the rows that still wait; the queue skips the request when it gets there."""
        if request.waiting_rows:
            self._observer.dropped(reason, request.waiting_rows)
            self._count(request, -request.waiting_rows)
            request.images = request.images[:0].copy()  # frees the pixels now, not then
            request.taken = 0

    def _fail(self, request: _Request, error: ServerError, reason: str) -> None:
        if not request.done.done():
            request.done.set_exception(error)
        self._drop(request, reason)

    def _count(self, request: _Request, rows: int) -> None:
        self._queued_rows += rows
        self._queued_bytes += rows * request.row_bytes
        self._observer.queue_changed(self._queued_rows, self._queued_bytes)


def _run(batch: list[_Slice]) -> Arrays:
    pieces = [piece.images for piece in batch]
    images = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return batch[0].request.session.run(images)


def _computed(request: _Request) -> Computed:
    parts = [request.parts[start] for start in sorted(request.parts)]
    outputs = (
        parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]
    )
    return Computed(
        outputs=outputs,
        queue_s=request.queue_s,
        compute_s=request.compute_s,
        batch_size=request.batch_size,
        batch_count=len(parts),
    )
