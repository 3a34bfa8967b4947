"""One model in service: its backend, its queue, and the sessions its requests need."""

import numpy as np

from convscope_server.backend import Backend, ImageArray, ModelInfo, Session
from convscope_server.batch_request import DEFAULT_PRIORITY, Computed
from convscope_server.feature_maps import MapPlan
from convscope_server.metrics import ModelMetrics
from convscope_server.scheduler import Scheduler
from convscope_server.session_cache import SessionCache


class ServedModel:
    """A model that is loaded and warmed; belongs to one event loop.

    Attributes:
        name: Name of its folder in the repository.
        version: Name of its version's folder.
        metrics: Its metrics.
    """

    def __init__(
        self,
        name: str,
        version: str,
        *,
        backend: Backend,
        lean: Session,
        scheduler: Scheduler,
        metrics: ModelMetrics,
    ) -> None:
        """Put a loaded model into service; lean is its session without taps, warmed."""
        self.name = name
        self.version = version
        self.metrics = metrics
        self._backend = backend
        self._lean = lean
        self._scheduler = scheduler
        self._sessions = SessionCache(backend, lambda count: metrics.sessions.set(1 + count))
        metrics.sessions.set(1)

    @property
    def info(self) -> ModelInfo:
        """What the model's file tells."""
        return self._backend.info

    @property
    def execution_provider(self) -> str:
        """Where it runs."""
        return self._backend.execution_provider

    def compute_bytes(self, rows: int, plan: MapPlan) -> int:
        """Memory that this many images need, and what is computed of them."""
        # A request that is split has its parts and, at the end, the whole.
        copies = 1 if rows <= self._scheduler.max_batch_size else 2
        return rows * self.info.image_bytes + copies * plan.activation_bytes(rows)

    def check_size(self, rows: int) -> None:
        """Whether this many images may be in one request; raises InvalidRequest if not."""
        self._scheduler.check_size(rows, rows * self.info.image_bytes)

    @property
    def max_batch_size(self) -> int:
        """Most rows that are computed at once."""
        return self._scheduler.max_batch_size

    def check_room(
        self,
        rows: int,
        tensors: tuple[str, ...],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
    ) -> None:
        """Whether this many images could be queued now: asked before they are decoded.

        The arguments are compute()'s.

        Raises:
            Overloaded: The queue is full, or so long that the deadline would pass in it.
            InvalidRequest: There are more than the queue can ever hold.
        """
        self._scheduler.check_room(
            rows,
            rows * self.info.image_bytes,
            None if tensors else self._lean,
            tapped=bool(tensors),
            priority=priority,
            deadline_s=deadline_s,
        )

    async def compute(
        self,
        images: ImageArray,
        tensors: tuple[str, ...],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
    ) -> Computed:
        """Scores, probabilities and these tensors for a request's images.

        Args:
            images: N >= 1 rows: uint8, (N, H, W, C), of the model's size; or floats, as the
                graph's own input takes them (ModelInfo.native).
            tensors: Tensors of the graph to return after the scores and probabilities.
            priority: 1 to 9, 1 served first.
            deadline_s: When the caller stops waiting, in time.monotonic() seconds.

        Raises:
            ServerError: As in Scheduler.submit.
        """
        native = images.dtype != np.uint8
        if tensors or native:
            session = await self._sessions.get(tensors, native=native)
        else:
            session = self._lean
        return await self._scheduler.submit(
            images, session, tapped=bool(tensors), priority=priority, deadline_s=deadline_s
        )

    async def close(self) -> None:
        """Stop computing; what waits fails."""
        self._sessions.close()
        await self._scheduler.close()
