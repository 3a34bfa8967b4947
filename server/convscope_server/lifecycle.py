"""Where the server stands in its life, and whoever waits for it to change."""

import asyncio
from enum import Enum

from convscope_server.errors import NotReady


class Phase(Enum):
    """From start to stop; only ever forwards."""

    STARTING = 0
    # Takes requests.
    SERVING = 1
    # Health says NOT_SERVING, requests are still taken.
    LEAVING = 2
    # Requests are refused, those in flight finish.
    DRAINING = 3
    STOPPED = 4


class Lifecycle:
    """The server's phase; belongs to one event loop."""

    def __init__(self) -> None:
        """Begin at STARTING."""
        self.phase = Phase.STARTING
        self._changed = asyncio.Event()

    def advance(self, phase: Phase) -> None:
        """Enter a later phase and wake everyone who waits; an earlier one is ignored."""
        if phase.value > self.phase.value:
            self.phase = phase
            self._changed.set()
            self._changed = asyncio.Event()

    async def left(self, phase: Phase) -> None:
        """Wait until the server is no longer in this phase."""
        while self.phase is phase:
            await self._changed.wait()

    async def no_longer_takes_requests(self) -> None:
        """Wait until the server drains."""
        while self.phase.value < Phase.DRAINING.value:
            await self._changed.wait()

    @property
    def takes_requests(self) -> bool:
        """Whether a new request is answered."""
        return self.phase in (Phase.SERVING, Phase.LEAVING)

    def check_takes_requests(self) -> None:
        """Whether a new request is answered.

        Raises:
            NotReady: It is not: the server is starting or draining.
        """
        if self.phase is Phase.STARTING:
            raise NotReady("the server is still loading its models; try again")
        if not self.takes_requests:
            raise NotReady("the server is shutting down; try another one")
