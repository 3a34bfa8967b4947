"""Runs a servicer's method for a transport: deadline, metrics, errors to status."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from convscope_server.call import Call, Methods, Stream, Unary
from convscope_server.errors import DeadlineExceeded, ServerError
from convscope_server.metrics import Metrics, RpcMetrics
from convscope_server.status import Code, RpcFailure, rpc_failure

log = logging.getLogger(__name__)


class Dispatcher:
    """All methods of the server; what every transport calls.

    Attributes:
        methods: Full method names to their kinds, for the transport to route by.
        in_flight: Unary calls that are being answered.
    """

    def __init__(self, methods: Methods, metrics: Metrics) -> None:
        """Take the servicers' methods."""
        self.methods = methods
        self.in_flight = 0
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
            with self._observed(call):
                if call.deadline_s is None:
                    return await method.handle(message, call)
                try:
                    # Not timeout_at: an event loop's clock need not be time.monotonic.
                    async with asyncio.timeout(call.deadline_s - time.monotonic()):
                        return await method.handle(message, call)
                except TimeoutError:
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
        with self._observed(call):
            async for answer in method.handle(messages, call):
                yield answer

    @contextmanager
    def _observed(self, call: Call) -> Iterator[None]:
        metrics = self._metrics[call.method]
        started_s = time.monotonic()
        code = Code.UNKNOWN
        metrics.started()
        try:
            yield
            code = Code.OK
        except ServerError as error:
            failure = rpc_failure(error)
            code = failure.code
            if code is Code.INTERNAL:
                log.error("%s failed: %s", call.method, error)
            raise failure from error
        except RpcFailure as failure:  # of a transport, in the midst of a stream's messages
            code = failure.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            # A transport may cancel at the deadline before our own clock does.
            late = call.deadline_s is not None and time.monotonic() >= call.deadline_s
            code = Code.DEADLINE_EXCEEDED if late else Code.CANCELLED
            raise
        except Exception as error:
            # A defect: the caller learns no details, the log has them all.
            log.exception("%s failed; this is a bug", call.method)
            code = Code.INTERNAL
            raise RpcFailure(code, "internal error; the server's log has the details") from error
        finally:
            metrics.handled(code.name, time.monotonic() - started_s)


def _rpc_metrics(metrics: Metrics, name: str, method: Unary | Stream) -> RpcMetrics:
    _, service, method_name = name.split("/")
    kind = "unary" if isinstance(method, Unary) else "bidi_stream"
    return RpcMetrics(metrics, kind, service, method_name)
