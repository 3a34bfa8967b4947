"""The requests that wait for one session: by priority, then by arrival."""

from collections import deque

from convscope_server.batch_request import Request

# A level of priority is worth this much waiting: a request goes before all of the next
# level that came less than this earlier. So urgent ones pass, and nobody starves.
LEVEL_S = 1.0


class Lane:
    """Requests that may share a batch."""

    def __init__(self, *, tapped: bool) -> None:
        """Begin empty; tapped is that of every request to come."""
        self.tapped = tapped
        self.rows = 0
        self._levels: dict[int, deque[Request]] = {}

    def __bool__(self) -> bool:
        """Whether any request is here, wanted or not."""
        return bool(self._levels)

    def add(self, request: Request) -> None:
        """Let a request wait behind those of its level."""
        self._levels.setdefault(request.priority, deque()).append(request)
        self.rows += request.waiting_rows

    @property
    def first(self) -> Request:
        """Whose turn it is; of a lane that is not empty."""
        levels = self._levels.values()
        if len(levels) == 1:  # as nearly always
            return next(iter(levels))[0]
        return min((level[0] for level in levels), key=turn)

    def remove_first(self) -> None:
        """Let go of the request whose turn it is."""
        priority = self.first.priority
        level = self._levels[priority]
        level.popleft()
        if not level:
            del self._levels[priority]

    def rows_before(self, priority: int) -> int:
        """Rows that go before a new request of this priority."""
        if len(self._levels) == 1 and priority in self._levels:
            return self.rows
        return sum(
            request.waiting_rows
            for level, requests in self._levels.items()
            if level <= priority
            for request in requests
        )

    def due_s(self, max_delay_s: float, batch_s: float) -> float:
        """When the longest wait ends, or the first deadline leaves just time for a batch."""
        return min(
            min(
                request.joined_s + max_delay_s,
                float("inf") if request.deadline_s is None else request.deadline_s - batch_s,
            )
            for request in self.all()
            if request.waiting_rows
        )

    def all(self) -> list[Request]:
        """Every request that waits here."""
        return [request for level in self._levels.values() for request in level]


def turn(request: Request) -> tuple[float, int]:
    """What requests are served in the order of: the smallest first."""
    return request.joined_s + LEVEL_S * request.priority, request.sequence
