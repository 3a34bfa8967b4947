"""What waits to be computed: bounded, in order, cut into batches. Starts nothing itself."""

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from convscope_server.backend import Float32Array, Session, UInt8Array
from convscope_server.errors import DeadlineExceeded, InvalidRequest, Overloaded, ServerError

Arrays = Sequence[Float32Array]


class Observer(Protocol):
    """Whoever counts what queue and scheduler do; metrics.ModelMetrics does."""

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
class Request:
    """Rows that one caller waits for.

    Attributes:
        images: uint8, (N, H, W, 3), N >= 1.
        session: What computes them; requests for the same one share batches.
        deadline_s: Until when rows may be taken, on the queue's clock; None for ever.
        done: What the caller waits for.
        joined_s: When it joined the queue.
        taken: How many rows are in batches already.
        running: How many batches with rows of it are not done.
        parts: Outputs by the first row they belong to: batches may finish in any order.
    """

    images: UInt8Array
    session: Session
    deadline_s: float | None
    done: asyncio.Future[Computed]
    joined_s: float
    sequence: int = 0
    taken: int = 0
    running: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_size: int = 0
    parts: dict[int, Arrays] = field(default_factory=dict)

    @property
    def waiting_rows(self) -> int:
        """Rows that are in no batch yet."""
        return len(self.images) - self.taken

    @property
    def waiting_bytes(self) -> int:
        """Bytes of those rows."""
        return self.images[self.taken :].nbytes


@dataclass(slots=True)
class Slice:
    """Consecutive rows of a request, as they sit in a batch; start is the first one's number."""

    request: Request
    start: int
    images: UInt8Array


class BatchQueue:
    """The requests that wait for one model; belongs to one event loop.

    Attributes:
        row_s: What a row took to compute in the last batch, for the hint to come back.
    """

    def __init__(
        self, *, max_batch_size: int, max_rows: int, max_bytes: int, observer: Observer
    ) -> None:
        """Start empty; the arguments are Scheduler's."""
        self._max_batch_size = max_batch_size
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._observer = observer
        # Requests by session, each in order of arrival; a session without any has no entry.
        self._queues: dict[Session, deque[Request]] = {}
        self._sequence = itertools.count()
        self._rows = 0
        self._bytes = 0
        self.row_s = 0.0

    def __bool__(self) -> bool:
        """Whether anything is left to cut."""
        return bool(self._queues)

    def check_room(self, rows: int, size_bytes: int) -> None:
        """Whether a request of this size could join now.

        Raises:
            Overloaded: The queue is full.
            InvalidRequest: There are more rows than the queue can ever hold.
        """
        if rows > self._max_rows or size_bytes > self._max_bytes:
            raise InvalidRequest(
                f"expected at most {self._max_rows} images and {self._max_bytes} bytes of pixels "
                f"in a request, got {rows} images and {size_bytes} bytes: send several requests"
            )
        if self._rows + rows > self._max_rows or self._bytes + size_bytes > self._max_bytes:
            raise Overloaded(
                f"the queue is full: {self._rows} images of at most {self._max_rows} wait, "
                f"and {rows} more came; try again later",
                retry_after_ms=max(1, round(1000 * self.row_s * self._rows)),
            )

    def add(self, request: Request) -> None:
        """Let a request wait; raises what check_room() raises."""
        rows, size_bytes = request.waiting_rows, request.waiting_bytes
        self.check_room(rows, size_bytes)
        request.sequence = next(self._sequence)
        self._queues.setdefault(request.session, deque()).append(request)
        self._count(rows, size_bytes)

    def cut(self, now_s: float) -> list[Slice]:
        """Take rows for the session whose first request has waited longest; empty if none wait.

        Whoever waits longest decides, so a session that few ask for never starves,
        and its one batch holds up the others no longer than a batch takes.
        """
        while self._queues:
            queue = min(self._queues.values(), key=lambda waiting: waiting[0].sequence)
            session = queue[0].session
            batch: list[Slice] = []
            room = self._max_batch_size
            while queue and room:
                request = queue[0]
                if not self._is_wanted(request, now_s):
                    queue.popleft()
                    continue
                rows = min(room, request.waiting_rows)
                images = request.images[request.taken : request.taken + rows]
                batch.append(Slice(request, request.taken, images))
                room -= rows
                request.taken += rows
                request.running += 1
                self._count(-rows, -images.nbytes)
                if not request.waiting_rows:
                    queue.popleft()
                    request.queue_s = now_s - request.joined_s
                    self._observer.queued(request.queue_s)
            if not queue:
                del self._queues[session]
            if batch:
                return batch
        return []

    def drop(self, request: Request, reason: str) -> None:
        """Let go of the rows that still wait; cut() skips the request when it gets there."""
        rows = request.waiting_rows
        if rows:
            self._observer.dropped(reason, rows)
            self._count(-rows, -request.waiting_bytes)
            request.images = request.images[:0].copy()  # frees the pixels now, not then
            request.taken = 0

    def fail(self, request: Request, error: ServerError, reason: str = "failed") -> None:
        """Answer a request with an error and drop what still waits of it."""
        if not request.done.done():
            request.done.set_exception(error)
        self.drop(request, reason)

    def fail_all(self, error: ServerError) -> None:
        """Answer everything that waits with an error."""
        for request in [request for queue in self._queues.values() for request in queue]:
            self.fail(request, error)
        self._queues.clear()

    def _is_wanted(self, request: Request, now_s: float) -> bool:
        if request.done.done():  # cancelled, or failed in another batch
            return False
        if request.deadline_s is None or now_s < request.deadline_s:
            return True
        error = DeadlineExceeded("the deadline passed while the request was queued")
        self.fail(request, error, "deadline")
        return False

    def _count(self, rows: int, size_bytes: int) -> None:
        self._rows += rows
        self._bytes += size_bytes
        self._observer.queue_changed(self._rows, self._bytes)
