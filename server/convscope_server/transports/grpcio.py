"""grpc.aio as a transport: bytes in, bytes out, everything else is the dispatcher's."""

import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from grpc import aio

from convscope_server.call import Call, Unary
from convscope_server.dispatch import Dispatcher
from convscope_server.errors import StartupError
from convscope_server.status import RpcFailure

_MIN_PING_INTERVAL_MS = 10_000  # the shortest that gRPC's clients allow themselves

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioTransport:
    """A grpc.aio server."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        max_message_bytes: int,
        max_concurrent_streams: int,
        keepalive_time_s: float,
        keepalive_timeout_s: float,
        shares_port: bool,
    ) -> None:
        """Make a server; nothing listens yet. The limits are those of config.ServerConfig.

        With shares_port other processes may listen on the same port, see shared_port.
        """
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_concurrent_streams", max_concurrent_streams),
                # A client that vanished without a word is noticed, and its calls are cancelled.
                ("grpc.keepalive_time_ms", round(1000 * keepalive_time_s)),
                ("grpc.keepalive_timeout_ms", round(1000 * keepalive_timeout_s)),
                # Clients may ping as often as that too; by default gRPC would close their
                # connection ("too_many_pings") for one ping within five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                # On Linux a second server would otherwise share a taken port without a word.
                ("grpc.so_reuseport", int(shares_port)),
            ]
        )
        self._server.add_generic_rpc_handlers((_Handlers(dispatcher),))

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which differs from the one given if that was 0.

        Raises:
            StartupError: The port is taken, or the address is not this machine's.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise StartupError(
                f"expected to listen for gRPC on {address}, which is taken or not this machine's: "
                "stop what listens there, or choose another with --port"
            )
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those in flight this long, then cancel them."""
        await self._server.stop(grace_s)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(_unary(dispatcher, name))
            if isinstance(method, Unary)
            # On the wire a stream serves whatever cardinality the client has.
            else grpc.stream_stream_rpc_method_handler(_stream(dispatcher, name))
            for name, method in dispatcher.methods.items()
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        return self._handlers.get(handler_call_details.method)


def _unary(dispatcher: Dispatcher, name: str) -> Any:
    async def handle(message: bytes, context: "aio.ServicerContext[bytes, bytes]") -> bytes:
        try:
            return await dispatcher.unary(message, _call(name, context))
        except RpcFailure as failure:
            await _abort(context, failure)

    return handle


def _stream(dispatcher: Dispatcher, name: str) -> Any:
    async def handle(
        messages: AsyncIterator[bytes], context: "aio.ServicerContext[bytes, bytes]"
    ) -> AsyncIterator[bytes]:
        try:
            async for answer in dispatcher.stream(messages, _call(name, context)):
                yield answer
        except RpcFailure as failure:
            await _abort(context, failure)

    return handle


def _call(name: str, context: "aio.ServicerContext[bytes, bytes]") -> Call:
    remaining_s = context.time_remaining()
    return Call(
        method=name,
        metadata=dict(context.invocation_metadata() or ()),
        deadline_s=None if remaining_s is None else time.monotonic() + remaining_s,
        peer=context.peer(),
    )


async def _abort(context: "aio.ServicerContext[bytes, bytes]", failure: RpcFailure) -> NoReturn:
    await context.abort(_CODES[failure.code], failure.message, failure.trailers)
