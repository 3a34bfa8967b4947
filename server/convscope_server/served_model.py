"""One model in service: its backend, its queue, and the sessions its requests need."""

import asyncio
import time

import numpy as np

from convscope_server.backend import Backend, ImageArray, Session
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
        info: What the model's file tells.
        metrics: Its metrics.
        limits: How much may wait, and how large a batch is.
        worker_count: Batches that are computed at a time.
        default_priority: Level of a request that names none.
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
        default_timeout_s: float | None = None,
        default_priority: int = DEFAULT_PRIORITY,
    ) -> None:
        """Put a loaded model into service.

        Args:
            name: What it is served as.
            version: A whole number from 1.
            backend: Builds its sessions.
            lean: Its session without taps, warmed.
            scheduler: Computes its batches; closed with the model.
            metrics: Its metrics.
            default_timeout_s: How long a request without a deadline may wait in the
                queue; None for ever.
            default_priority: Level of a request that names none.
        """
        self.name = name
        self.version = version
        self.metrics = metrics
        self.limits = scheduler.limits
        self.worker_count = scheduler.worker_count
        self.default_priority = default_priority
        self._default_timeout_s = default_timeout_s
        self._lease_count = 0
        self._retiring = False
        self._idle = asyncio.Event()
        self.info = backend.info
        self._backend = backend
        self._lean = lean
        self._scheduler = scheduler
        self._sessions = SessionCache(backend, lambda count: metrics.sessions.set(1 + count))
        metrics.sessions.set(1)

    @property
    def max_batch_size(self) -> int:
        """Most rows of one batch."""
        return self.limits.max_batch_size

    @property
    def execution_provider(self) -> str:
        """Where it runs."""
        return self._backend.execution_provider

    def take_lease(self) -> None:
        """Keep the model computing until end_lease(), even if it leaves service meanwhile.

        Every request takes one in the moment in which it finds its model.
        """
        self._lease_count += 1

    def end_lease(self) -> None:
        """Need the model no longer."""
        self._lease_count -= 1
        if self._retiring and not self._lease_count:
            self._idle.set()

    def compute_bytes(self, rows: int, plan: MapPlan) -> int:
        """Memory that this many images need, and what is computed of them."""
        # A request that is split has its parts and, at the end, the whole.
        copies = 1 if rows <= self.max_batch_size else 2
        return rows * self.info.image_bytes + copies * plan.activation_bytes(rows)

    def check_size(self, rows: int) -> None:
        """Whether this many images may be in one request; raises InvalidRequest if not."""
        self._scheduler.check_size(rows, rows * self.info.image_bytes)

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
        if deadline_s is None and self._default_timeout_s is not None:
            deadline_s = time.monotonic() + self._default_timeout_s
        native = images.dtype != np.uint8
        if tensors or native:
            session = await self._sessions.get(tensors, native=native)
        else:
            session = self._lean
        return await self._scheduler.submit(
            images, session, tapped=bool(tensors), priority=priority, deadline_s=deadline_s
        )

    async def retire(self) -> None:
        """Close once the last lease has ended; the model must be out of service."""
        self._retiring = True
        if self._lease_count:
            await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Stop computing; what waits fails."""
        self._sessions.close()
        await self._scheduler.close()
