"""One model in service: its backend, its queue, and the sessions its requests need."""

import asyncio
from collections import OrderedDict

from convscope_server.backend import Backend, ModelInfo, Session, UInt8Array
from convscope_server.batch_request import DEFAULT_PRIORITY, Computed
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
        images: UInt8Array,
        tensors: tuple[str, ...],
        *,
        priority: int = DEFAULT_PRIORITY,
        deadline_s: float | None = None,
    ) -> Computed:
        """Scores, probabilities and these tensors for a request's images.

        Args:
            images: uint8, (N, H, W, 3), N >= 1, of the model's size.
            tensors: Tensors of the graph to return after the scores and probabilities.
            priority: 1 to 9, 1 served first.
            deadline_s: When the caller stops waiting, in time.monotonic() seconds.

        Raises:
            ServerError: As in Scheduler.submit.
        """
        session = self._lean if not tensors else await self._tapped_session(tensors)
        return await self._scheduler.submit(
            images, session, tapped=bool(tensors), priority=priority, deadline_s=deadline_s
        )

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
