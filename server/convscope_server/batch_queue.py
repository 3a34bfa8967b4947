"""What waits to be computed: bounded, in order, cut into batches. Starts nothing itself."""

import itertools
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from convscope_server.backend import Session
from convscope_server.batch_request import Arrays, Batch, Request, Slice
from convscope_server.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerError,
)
from convscope_server.fair_share import FairShare
from convscope_server.lane import Lane, turn

# Full batches whose quickest tells how long one takes: one hiccup must not have
# requests refused for a wait that they would not have had.
_REMEMBERED_BATCHES = 8


class Observer(Protocol):
    """Whoever counts what queue and scheduler do; metrics.ModelMetrics does."""

    def queue_changed(self, rows: int, size_bytes: int) -> None:
        """The queue now holds this many rows, of this many bytes."""

    def batch_done(self, outputs: Arrays, compute_s: float, cut_reason: str) -> None:
        """A batch was computed, with these outputs; see Batch.cut_reason."""

    def batch_failed(self) -> None:
        """A batch failed to compute."""

    def queued(self, queue_s: float) -> None:
        """A request left the queue after this time, its last row in a batch."""

    def dropped(self, reason: str, rows: int) -> None:
        """Rows left the queue without being computed.

        Because of a "deadline", "cancelled", since a batch with others of their request
        "failed", or since the model is "closed".
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How much may wait, and what batches are cut of it.

    Attributes:
        max_batch_size: Most rows in one batch.
        max_rows, max_bytes: Most that waits; more is refused.
        max_delay_s: How long a batch that is not full waits for more rows, counted
            from the request that came first; 0: not at all.
    """

    max_batch_size: int
    max_rows: int
    max_bytes: int
    max_delay_s: float = 0.0


def late_or(reason: str, deadline_s: float | None, now_s: float) -> str:
    """Why rows are dropped: a transport may cancel at the deadline before our own clock does."""
    return "deadline" if deadline_s is not None and now_s >= deadline_s else reason


class BatchQueue:
    """The requests that wait for one model; belongs to one event loop."""

    def __init__(
        self, limits: QueueLimits, observer: Observer, *, worker_count: int, full_batch_s: float
    ) -> None:
        """Start empty.

        Args:
            limits: How much may wait.
            observer: Told of what happens.
            worker_count: How many batches are computed at a time.
            full_batch_s: What a full batch is known to take; 0 if that is not known.
        """
        self._limits = limits
        self._observer = observer
        self._worker_count = worker_count
        self._lanes: dict[Session, Lane] = {}  # none is empty
        self._share = FairShare()
        self._sequence = itertools.count()
        self._rows = 0
        self._bytes = 0
        self._full_batches_s = {
            tapped: deque([full_batch_s], _REMEMBERED_BATCHES) for tapped in (False, True)
        }

    def __bool__(self) -> bool:
        """Whether anything is left to cut."""
        return bool(self._lanes)

    def check_size(self, rows: int, size_bytes: int) -> None:
        """Whether such a request could ever join.

        Raises:
            InvalidRequest: There are more rows or bytes than the queue holds.
        """
        limits = self._limits
        if rows > limits.max_rows or size_bytes > limits.max_bytes:
            raise InvalidRequest(
                f"expected at most {limits.max_rows} images and {limits.max_bytes} bytes of pixels "
                f"in a request, got {rows} images and {size_bytes} bytes: send several requests"
            )

    def check_room(
        self,
        rows: int,
        size_bytes: int,
        session: Session | None,
        *,
        tapped: bool,
        priority: int,
        wait_s: float,
    ) -> None:
        """Whether a request could join now and be in a batch within wait_s.

        Args:
            rows: Of the request.
            size_bytes: Of its images.
            session: What is to compute it; None if that is not known yet.
            tapped: Whether it asks for feature maps.
            priority: Its level.
            wait_s: How long it may wait; inf for ever.

        Raises:
            Overloaded: The queue is full, or the wait would be longer.
            DeadlineExceeded: Nothing is left of wait_s.
            InvalidRequest: There are more rows than the queue can ever hold.
        """
        self.check_size(rows, size_bytes)
        limits = self._limits
        if self._rows + rows > limits.max_rows or self._bytes + size_bytes > limits.max_bytes:
            all_s = self._batches_s([self._rows], tapped)
            raise Overloaded(
                f"the queue is full: {self._rows} images of at most {limits.max_rows} wait, "
                f"and {rows} more came; try again later",
                reason="queue_full",
                retry_after_ms=math.ceil(1000 * all_s),
            )
        if wait_s <= 0:
            raise DeadlineExceeded("the deadline passed before the request was queued")
        if session is None or wait_s == math.inf:
            return
        predicted_s = self._predicted_wait_s(session, tapped, priority)
        if predicted_s > wait_s:
            raise Overloaded(
                f"the queue is too long for this deadline: expected to wait at least "
                f"{1000 * predicted_s:.0f} ms, and the deadline is in {1000 * wait_s:.0f} ms; "
                "try again later",
                reason="predicted_wait",
                retry_after_ms=math.ceil(1000 * (predicted_s - wait_s)),
            )

    def add(self, request: Request) -> None:
        """Let a request wait; raises what check_room() raises."""
        rows, size_bytes = request.waiting_rows, request.waiting_bytes
        wait_s = math.inf if request.deadline_s is None else request.deadline_s - request.joined_s
        self.check_room(
            rows,
            size_bytes,
            request.session,
            tapped=request.tapped,
            priority=request.priority,
            wait_s=wait_s,
        )
        request.sequence = next(self._sequence)
        lane = self._lanes.get(request.session)
        if lane is None:
            lane = self._lanes[request.session] = Lane(tapped=request.tapped)
        lane.add(request)
        self._count(rows, size_bytes)

    def cut(self, now_s: float, *, threads_free: bool = True) -> Batch | None:
        """Take rows for one session; None if none are due.

        Without a free thread, only for sessions that are run inline.

        Plain and tapped requests share the time that is computed evenly, where both
        wait: so neither holds the other up by more than a batch. Within a flow, the
        session of the request whose turn it is.
        """
        due = []
        for session, lane in list(self._lanes.items()):
            self._drop_unwanted(lane, now_s)
            if not lane:
                del self._lanes[session]
            elif (threads_free or session.inline) and self._due_s(lane) <= now_s:
                due.append(lane)
        if not due:
            return None
        flow = self._share.choose({lane.tapped for lane in due})
        lane = min((lane for lane in due if lane.tapped is flow), key=lambda lane: turn(lane.first))
        full = lane.rows >= self._limits.max_batch_size
        session = lane.first.session
        slices = self._take(lane, now_s)
        if not lane:
            del self._lanes[session]
        return Batch(slices, "full" if full else "delay" if self._limits.max_delay_s else "free")

    def tell_size(self) -> None:
        """Let the observer know how much waits; not at every change: several come at once."""
        self._observer.queue_changed(self._rows, self._bytes)

    def next_due_s(self, *, threads_free: bool) -> float:
        """When cut() will have something, if nothing else changes; inf if it will not."""
        return min(
            (
                self._due_s(lane)
                for session, lane in self._lanes.items()
                if threads_free or session.inline
            ),
            default=math.inf,
        )

    def charge(self, batch: Batch, compute_s: float) -> None:
        """A batch, computed or failed, took this long of the time that is shared."""
        self._share.charge(batch.tapped, max(compute_s, 1e-6))

    def learn(self, batch: Batch, compute_s: float) -> None:
        """A batch was computed in this time: for the wait that is predicted."""
        if batch.rows == self._limits.max_batch_size:
            self._full_batches_s[batch.tapped].append(compute_s)

    def drop(self, request: Request, reason: str) -> None:
        """Let go of the rows that still wait; cut() skips the request when it gets there."""
        rows = request.waiting_rows
        if rows:
            self._observer.dropped(reason, rows)
            self._count(-rows, -request.waiting_bytes)
            if lane := self._lanes.get(request.session):
                lane.rows -= rows
            request.images = request.images[:0].copy()  # frees the pixels now, not then
            request.taken = 0

    def fail(self, request: Request, error: ServerError, reason: str = "failed") -> None:
        """Answer a request with an error and drop what still waits of it."""
        if not request.done.done():
            request.done.set_exception(error)
        self.drop(request, reason)

    def fail_all(self, error: ServerError, reason: str) -> None:
        """Answer everything that waits with an error."""
        for lane in self._lanes.values():
            for request in lane.all():
                self.fail(request, error, reason)
        self._lanes.clear()

    def _take(self, lane: Lane, now_s: float) -> list[Slice]:
        slices: list[Slice] = []
        room = self._limits.max_batch_size
        while room and lane:
            request = lane.first
            rows = min(room, request.waiting_rows)
            images = request.images
            if rows < len(images):
                images = images[request.taken : request.taken + rows]
            slices.append(Slice(request, request.taken, images))
            room -= rows
            request.taken += rows
            request.running += 1
            lane.rows -= rows
            self._count(-rows, -images.nbytes)
            if not request.waiting_rows:
                lane.remove_first()
                request.queue_s = now_s - request.joined_s
                self._observer.queued(request.queue_s)
                self._drop_unwanted(lane, now_s)
        return slices

    def _drop_unwanted(self, lane: Lane, now_s: float) -> None:
        """Let go of those that were cancelled, failed or are too late, up to one that is wanted."""
        while lane and not self._is_wanted(lane.first, now_s):
            lane.remove_first()

    def _is_wanted(self, request: Request, now_s: float) -> bool:
        if request.done.done():  # cancelled, or failed in another batch
            # Now, not when its caller's task hears of it: by then the lane may be another.
            self.drop(request, late_or("cancelled", request.deadline_s, now_s))
            return False
        if request.deadline_s is None or now_s < request.deadline_s:
            return True
        error = DeadlineExceeded("the deadline passed while the request was queued")
        self.fail(request, error, "deadline")
        return False

    def _due_s(self, lane: Lane) -> float:
        if not self._limits.max_delay_s or lane.rows >= self._limits.max_batch_size:
            return -math.inf
        return lane.due_s(self._limits.max_delay_s, min(self._full_batches_s[lane.tapped]))

    def _predicted_wait_s(self, session: Session, tapped: bool, priority: int) -> float:
        """The least that a new request would wait: for the full batches that go before it.

        Rather too little than too much, so that nobody is refused who might be served.
        Not counted are batches that are being computed, those of the other flow, and,
        where the request's own lane holds some, those of other lanes: it may share its
        batch with one that came before them.
        """
        if own := self._lanes.get(session):
            return self._batches_s([own.rows_before(priority)], tapped)
        others = [lane for lane in self._lanes.values() if lane.tapped is tapped]
        return self._batches_s([lane.rows_before(priority) for lane in others], tapped)

    def _batches_s(self, rows_of_lanes: Iterable[int], tapped: bool) -> float:
        """How long until the full batches of these rows have all been started."""
        batches = sum(rows // self._limits.max_batch_size for rows in rows_of_lanes)
        return batches // self._worker_count * min(self._full_batches_s[tapped])

    def _count(self, rows: int, size_bytes: int) -> None:
        self._rows += rows
        self._bytes += size_bytes
