"""Runs a servicer's method for a transport: deadline, metrics, errors to status."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.errors import DeadlineExceeded, Overloaded, ServerError
from convscope_server.metrics import Metrics, RpcMetrics
from convscope_server.status import Code, RpcFailure, rpc_failure

log = logging.getLogger(__name__)

# uvloop's timers are whole milliseconds. One that rings early would have what it
# cancels taken for given up by its caller.
_TIMER_ERROR_S = 0.001
# When to come back after a refusal for too many calls: nothing is known of how long they take.
_RETRY_AFTER_MS = 100


class Dispatcher:
    """All methods of the server; what every transport calls.

    Attributes:
        methods: Full method names to their kinds, for the transport to route by.
        in_flight: Calls that a server which stops waits for.
    """

    def __init__(self, methods: Methods, metrics: Metrics, *, max_calls: int) -> None:
        """Take the servicers' methods; answer at most max_calls calls and streams at a time."""
        self.methods = methods
        self.in_flight = 0
        self._max_calls = max_calls
        self._streams = 0
        self._refused_calls = metrics.refused_calls
        self._metrics = {name: _rpc_metrics(metrics, name, methods[name]) for name in methods}

    async def unary(self, message: bytes, call: Call) -> bytes:
        """Answer one message.

        Raises:
            RpcFailure: The call failed; this is how.
        """
        method = self.methods[call.method]
        assert isinstance(method, Unary)  # noqa: S101 - the transport routes by kind
        self.in_flight += 1
        try:
            with _Observed(call, self._metrics[call.method]):
                if not method.unlimited:
                    self._check_room(self.in_flight)
                if call.deadline_s is None:
                    return await method.handle(message, call)
                remaining_s = call.deadline_s - time.monotonic()
                if remaining_s <= 0:
                    raise DeadlineExceeded("the deadline passed before the call arrived")
                try:
                    # Not timeout_at: an event loop's clock need not be time.monotonic.
                    async with asyncio.timeout(remaining_s + _TIMER_ERROR_S) as deadline:
                        return await method.handle(message, call)
                except TimeoutError:
                    if not deadline.expired():
                        raise  # the handler's own
                    raise DeadlineExceeded("the deadline passed before the answer") from None
        finally:
            self.in_flight -= 1

    async def stream(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Answer a stream of messages.

        Raises:
            RpcFailure: The call failed; this is how.
        """
        method = self.methods[call.method]
        assert isinstance(method, Stream)  # noqa: S101
        self.in_flight += method.drains
        self._streams += 1
        try:
            with _Observed(call, self._metrics[call.method]):
                self._check_room(self._streams)
                async for answer in method.handle(messages, call):
                    yield answer
        finally:
            self._streams -= 1
            self.in_flight -= method.drains

    def _check_room(self, calls: int) -> None:
        if calls > self._max_calls:
            self._refused_calls.inc()
            raise Overloaded(
                f"expected at most {self._max_calls} calls at a time; try again later",
                reason="calls",
                retry_after_ms=_RETRY_AFTER_MS,
            )


class _Observed:
    """A call's metrics, and its errors to statuses; a class, since a generator costs twice that."""

    __slots__ = ("_call", "_metrics", "_started_s")

    def __init__(self, call: Call, metrics: RpcMetrics) -> None:
        self._call = call
        self._metrics = metrics

    def __enter__(self) -> None:
        self._started_s = time.monotonic()
        self._metrics.started()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        code, failure = Code.OK, None
        if isinstance(error, Exception) and not isinstance(error, asyncio.CancelledError):
            failure = failure_of(error, self._call.method)
            code = failure.code
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            # A transport may cancel at the deadline before our own clock does.
            deadline_s = self._call.deadline_s
            late = deadline_s is not None and time.monotonic() >= deadline_s
            code = Code.DEADLINE_EXCEEDED if late else Code.CANCELLED
        elif error is not None:
            code = Code.UNKNOWN
        self._metrics.handled(code.name, time.monotonic() - self._started_s)
        if failure:
            raise failure from error


def failure_of(error: Exception, method: str) -> RpcFailure:
    """How a call, or a message of a stream, that raised this ends; logs what is our own fault."""
    if isinstance(error, RpcFailure):  # a transport's, in the midst of a stream's messages
        return error
    if isinstance(error, ServerError):
        failure = rpc_failure(error)
        if failure.code is Code.INTERNAL:
            log.error("%s failed: %s", method, error)
        return failure
    # A defect: the caller learns no details, the log has them all.
    log.error("%s failed; this is a bug", method, exc_info=error)
    return RpcFailure(Code.INTERNAL, "internal error; the server's log has the details")


def _rpc_metrics(metrics: Metrics, name: str, method: Unary | Stream) -> RpcMetrics:
    _, service, method_name = name.split("/")
    kind = "unary" if isinstance(method, Unary) else method.grpc_type
    return RpcMetrics(metrics, kind, service, method_name)
