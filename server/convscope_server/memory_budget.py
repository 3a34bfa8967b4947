"""How much memory all requests together may need at a time."""

from convscope_server.errors import Overloaded, ResponseTooLarge

# When to come back: nothing is known of how long those that hold the memory take.
_RETRY_AFTER_MS = 100


class MemoryBudget:
    """Counts what requests will need, and refuses what would exceed the limit.

    Messages, pixels, activations and answers, as far as they are known before anything
    runs: ten thousand requests that are each allowed must not kill the server together.
    """

    def __init__(self, limit_bytes: int) -> None:
        """Begin with nothing held."""
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Count this much until release(), while a request is answered.

        Raises:
            ResponseTooLarge: It is more than there is for all.
            Overloaded: It is more than is left.
        """
        if size_bytes > self._limit_bytes:
            raise ResponseTooLarge(
                f"expected a request that needs at most {self._limit_bytes} bytes of memory, got "
                f"one for {size_bytes}: ask for fewer images or layers at a time"
            )
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise Overloaded(
                f"requests that are being answered need {self.held_bytes} of at most "
                f"{self._limit_bytes} bytes, and {size_bytes} more came; try again later",
                reason="memory",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Count what was held no longer."""
        self.held_bytes -= size_bytes
