"""What became of one model's requests and batches, in Triton's terms: counts and durations."""

import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """It happened once more."""
        self.count += 1
        self.seconds += seconds

    @property
    def ns(self) -> int:
        """How long, in whole nanoseconds."""
        return round(self.seconds * 1e9)


@dataclass(slots=True)
class ModelStatistics:
    """Since the model was loaded.

    Of a request that shared its batches with others, the whole of their compute time
    counts, as Triton has it.

    Attributes:
        success, fail: Requests, from their first to their last moment here; neither holds
            those for which there was no room.
        queue: Of those that succeeded: from joining the queue until the last row was taken.
        compute_input: Of those: reading pictures into pixels.
        compute_infer: Of those: batches that held one of their rows.
        compute_output: Of those: writing the answer.
        batches: Batches by how many rows they had.
        row_count: Images of requests that succeeded.
        last_request_ms: When the last of them began, in milliseconds since 1970; 0: none has.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    batches: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))
    row_count: int = 0
    last_request_ms: int = 0

    def succeeded(
        self,
        rows: int,
        *,
        total_s: float,
        queue_s: float,
        decode_s: float,
        compute_s: float,
        write_s: float,
    ) -> None:
        """A request of this many images was answered."""
        self.row_count += rows
        self.last_request_ms = int((time.time() - total_s) * 1000)
        self.success.add(total_s)
        self.queue.add(queue_s)
        self.compute_input.add(decode_s)
        self.compute_infer.add(compute_s)
        self.compute_output.add(write_s)
