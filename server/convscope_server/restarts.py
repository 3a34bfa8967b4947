"""When a worker that ended is started again, and when it is not."""

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
# A worker that lived this long begins anew with the first delay.
STEADY_AFTER_S = 60.0
# Starts in a row that end before the worker is ready, until trying on is pointless.
MAX_FAILED_STARTS = 5


class Restarts:
    """The history of one worker's ends: exponential back-off, and an end to it."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ends = 0
        self._failed_starts = 0

    def delay_s(self, *, lived_s: float, was_ready: bool) -> float | None:
        """How long to wait before the next start, in seconds; None: give up.

        Args:
            lived_s: How long the worker that just ended lived.
            was_ready: Whether it ever took requests.
        """
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            return None
        if lived_s >= STEADY_AFTER_S:
            self._ends = 0
        self._ends += 1
        # min() first: a float has no 2.0 ** 2000.
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._ends - 1, 16))
