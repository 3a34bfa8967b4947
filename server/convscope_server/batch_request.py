"""What a caller waits for: rows to compute, and what became of them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from convscope_server.backend import Float32Array, ImageArray, Session
from convscope_server.errors import InvalidRequest

Arrays = Sequence[Float32Array]

# Levels of priority, the first served first.
PRIORITIES = range(1, 10)
DEFAULT_PRIORITY = 5


def checked_priority(level: int, default: int) -> int:
    """A request's level of priority; the default if it names none, which is 0.

    Raises:
        InvalidRequest: There is no such level.
    """
    level = level or default
    if level not in PRIORITIES:
        raise InvalidRequest(
            f"expected a priority from {PRIORITIES[0]} to {PRIORITIES[-1]}, or 0, got {level}"
        )
    return level


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
        images: N >= 1 rows of what the session takes.
        session: What computes them; requests for the same one share batches.
        tapped: Whether that session returns feature maps.
        priority: Its level, one of PRIORITIES.
        deadline_s: Until when rows may be taken, on the queue's clock; None for ever.
        done: What the caller waits for.
        joined_s: When it joined the queue.
        sequence: Its number among all that joined.
        taken: How many rows are in batches already.
        running: How many batches with rows of it are not done.
        parts: Outputs by the first row they belong to: batches may finish in any order.
    """

    images: ImageArray
    session: Session
    tapped: bool
    priority: int
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
        return self.images.nbytes * self.waiting_rows // max(1, len(self.images))


@dataclass(slots=True)
class Slice:
    """Consecutive rows of a request, as they sit in a batch; start is the first one's number."""

    request: Request
    start: int
    images: ImageArray


@dataclass(slots=True)
class Batch:
    """Rows that are computed together.

    Attributes:
        slices: The rows, each slice from another request.
        cut_reason: Why it was cut as it is: "full"; "free", a worker was free and took
            all there was; "delay", whoever waited had waited max_delay_s for more.
    """

    slices: list[Slice]
    cut_reason: str

    @property
    def session(self) -> Session:
        """What computes it."""
        return self.slices[0].request.session

    @property
    def tapped(self) -> bool:
        """Whether that session returns feature maps."""
        return self.slices[0].request.tapped

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(len(piece.images) for piece in self.slices)
