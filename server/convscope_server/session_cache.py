"""The sessions of one model that return feature maps: built when asked for, shared, bounded."""

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from convscope_server.backend import Backend, Session
from convscope_server.errors import Overloaded

# Sets of layers whose sessions are kept, the last asked for. Each session holds
# its own copy of the weights.
MAX_SESSIONS = 8
# Sessions that waiting requests hold beside those, and builds that wait for their turn.
MAX_EXTRA_SESSIONS = 8

_RETRY_AFTER_MS = 200


_Key = tuple[bool, tuple[str, ...]]  # native, tensors


@dataclass(slots=True, eq=False)
class _Entry:
    future: asyncio.Future[Session]
    waiters: int = 0


class SessionCache:
    """Sessions by the tensors that they return; belongs to one event loop.

    One is built at a time, in a thread of its own: plain requests go on meanwhile, and
    many sets of layers at once do not multiply the memory that building takes.
    """

    def __init__(self, backend: Backend, on_change: Callable[[int], None]) -> None:
        """Begin with none; on_change is told how many there are, whenever that changes."""
        self._backend = backend
        self._on_change = on_change
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._alive: weakref.WeakSet[Session] = weakref.WeakSet()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="convscope-build")

    async def get(self, tensors: tuple[str, ...], *, native: bool = False) -> Session:
        """The session that returns these tensors of the graph beside the scores.

        A native one takes what the graph's own input takes, instead of uint8 pixels.

        Raises:
            Overloaded: Too many others are held or being built.
            BackendFailure: The runtime could not build it.
        """
        key = (native, tensors)
        entry = self._entries.get(key) or self._start(key)
        self._entries.move_to_end(key)
        entry.waiters += 1
        try:
            # The session is everybody's: one caller's cancellation must not stop it.
            return await asyncio.shield(entry.future)
        finally:
            entry.waiters -= 1
            if not entry.waiters and not entry.future.done():
                entry.future.cancel()  # nobody waits for it any more

    def close(self) -> None:
        """Build no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._entries.clear()

    def _start(self, key: _Key) -> _Entry:
        builds = sum(not entry.future.done() for entry in self._entries.values())
        if builds + len(self._alive) >= MAX_SESSIONS + MAX_EXTRA_SESSIONS:
            raise Overloaded(
                f"requests for {builds + len(self._alive)} different sets of layers are being "
                "answered; try again later, or ask for the same layers",
                reason="sessions",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        future = asyncio.get_running_loop().run_in_executor(
            self._executor, partial(self._backend.build_session, key[1], native=key[0])
        )
        entry = self._entries[key] = _Entry(future)
        future.add_done_callback(lambda done: self._built(key, entry, done))
        return entry

    def _built(self, key: _Key, entry: _Entry, done: asyncio.Future[Session]) -> None:
        if done.cancelled() or done.exception():
            if self._entries.get(key) is entry:  # the next one who asks tries again
                del self._entries[key]
            return
        self._alive.add(done.result())
        # One that is dropped lives on until the requests that hold it are answered.
        finished = [key for key, other in self._entries.items() if other.future.done()]
        for old in finished[:-MAX_SESSIONS]:
            del self._entries[old]
        self._on_change(min(len(finished), MAX_SESSIONS))
