"""One model in service: its backend, its queue, and the sessions its requests need."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from convscope_server.backend import Backend, ModelInfo, Session, UInt8Array
from convscope_server.batch_queue import Computed
from convscope_server.metrics import ModelMetrics
from convscope_server.scheduler import Scheduler

# Sets of layers whose sessions are kept, the last asked for. Each session holds
# its own copy of the weights.
MAX_TAPPED_SESSIONS = 8


class ServedModel:
    """A model that is loaded and warmed; belongs to one event loop.

    Attributes:
        name: Name of its folder in the repository.
        version: Name of its version's folder.
        metrics: Its metrics.
        max_batch_size: Most rows of one batch.
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
        max_batch_size: int,
        default_timeout_s: float | None = None,
    ) -> None:
        """Put a loaded model into service.

        Args:
            name: What it is served as.
            version: A whole number from 1.
            backend: Builds its sessions.
            lean: Its session without taps, warmed.
            scheduler: Computes its batches; closed with the model.
            metrics: Its metrics.
            max_batch_size: Most rows of one batch.
            default_timeout_s: How long a request without a deadline may wait in the
                queue; None for ever.
        """
        self.name = name
        self.version = version
        self.metrics = metrics
        self.max_batch_size = max_batch_size
        self._default_timeout_s = default_timeout_s
        self._lease_count = 0
        self._retiring = False
        self._idle = asyncio.Event()
        self._backend = backend
        self._lean = lean
        self._scheduler = scheduler
        # Futures, so that requests that come while a session is built share it.
        self._tapped: OrderedDict[tuple[str, ...], asyncio.Future[Session]] = OrderedDict()
        metrics.sessions.set(1)

    @property
    def info(self) -> ModelInfo:
        """What the model's file tells."""
        return self._backend.info

    @property
    def execution_provider(self) -> str:
        """Where it runs."""
        return self._backend.execution_provider

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keeps the model computing until the block ends, even if it leaves service meanwhile.

        Every request holds one from the moment it has found its model.
        """
        self._lease_count += 1
        try:
            yield
        finally:
            self._lease_count -= 1
            if self._retiring and not self._lease_count:
                self._idle.set()

    def check_room(self, rows: int) -> None:
        """Whether this many images could be queued now: asked before they are decoded.

        Raises:
            Overloaded: The queue is full.
            InvalidRequest: There are more than the queue can ever hold.
        """
        self._scheduler.check_room(rows, rows * self.info.image_bytes)

    async def compute(
        self, images: UInt8Array, tensors: tuple[str, ...], deadline_s: float | None
    ) -> Computed:
        """Scores, probabilities and these tensors for a request's images.

        Args:
            images: uint8, (N, H, W, 3), N >= 1, of the model's size.
            tensors: Tensors of the graph to return after the scores and probabilities.
            deadline_s: When the caller stops waiting, in time.monotonic() seconds.

        Raises:
            ServerError: As in Scheduler.submit.
        """
        if deadline_s is None and self._default_timeout_s is not None:
            deadline_s = time.monotonic() + self._default_timeout_s
        session = self._lean if not tensors else await self._tapped_session(tensors)
        return await self._scheduler.submit(images, session, deadline_s=deadline_s)

    async def retire(self) -> None:
        """Close once the last lease has ended; the model must be out of service."""
        self._retiring = True
        if self._lease_count:
            await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Stop computing; what waits fails."""
        await self._scheduler.close()

    async def _tapped_session(self, tensors: tuple[str, ...]) -> Session:
        future = self._tapped.get(tensors)
        if future is None:
            # In a thread of its own: plain requests go on while it is built.
            future = asyncio.ensure_future(asyncio.to_thread(self._backend.build_session, tensors))
            self._tapped[tensors] = future
            # A session that is dropped lives on until the requests that hold it are answered.
            if len(self._tapped) > MAX_TAPPED_SESSIONS:
                self._tapped.popitem(last=False)
            self.metrics.sessions.set(1 + len(self._tapped))
        self._tapped.move_to_end(tensors)
        try:
            # The session is everybody's: one caller's cancellation must not stop it.
            return await asyncio.shield(future)
        except Exception:
            if self._tapped.get(tensors) is future:
                del self._tapped[tensors]
            raise
