"""What one model's own configuration says instead of the server's flags."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Settings of one model; None (and no labels) where the server's hold.

    Attributes:
        max_batch_size: Most rows of one batch; the smaller of this and the server's counts.
        max_queue_delay_s: How long a batch may wait to be filled.
        max_queue_rows: Most rows that wait.
        default_timeout_s: How long a request without a deadline may wait in the queue.
        priority_levels, default_priority: Levels of priority, 1 the highest.
        device: "cpu" or "cuda".
        instance_count: Batches computed at a time.
        thread_count: Threads of one batch.
        labels: One for each class, instead of the model file's.
    """

    max_batch_size: int | None = None
    max_queue_delay_s: float | None = None
    max_queue_rows: int | None = None
    default_timeout_s: float | None = None
    priority_levels: int | None = None
    default_priority: int | None = None
    device: str | None = None
    instance_count: int | None = None
    thread_count: int | None = None
    labels: tuple[str, ...] = ()
