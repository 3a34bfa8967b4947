"""grpc.aio as a transport: bytes in, bytes out, everything else is the dispatcher's."""

import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from grpc import aio

from convscope_server.call import Call, Unary
from convscope_server.config import ServerConfig
from convscope_server.dispatch import Dispatcher
from convscope_server.status import RpcFailure
from convscope_server.transports.transport import address_text, port_taken

_MOST_PENDING = 1 << 20

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioTransport:
    """A grpc.aio server."""

    def __init__(
        self, config: ServerConfig, dispatcher: Dispatcher, *, shares_port: bool = False
    ) -> None:
        """Make a server; nothing listens yet.

        With shares_port other processes may listen on the same port, see shared_port.
        """
        self._credentials = _credentials(config)
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.max_concurrent_streams", config.max_concurrent_streams),
                # From 1,000 calls that Python has not taken up yet gRPC would cancel some
                # at random; the dispatcher refuses them with a reason and a hint instead.
                ("grpc.server.max_pending_requests", _MOST_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
                # A client that vanished without a word is noticed, and its calls are cancelled.
                ("grpc.keepalive_time_ms", round(1000 * config.keepalive_time_s)),
                ("grpc.keepalive_timeout_ms", round(1000 * config.keepalive_timeout_s)),
                # Clients may ping as often as they like, as over Envoy; by default gRPC would
                # close their connection ("too_many_pings") for one within five minutes.
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                # On Linux a second server would otherwise share a taken port without a word.
                ("grpc.so_reuseport", int(shares_port)),
            ]
        )
        self._handlers = _Handlers(dispatcher)
        self._server.add_generic_rpc_handlers((self._handlers,))

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which differs from the one given if that was 0.

        Raises:
            StartupError: The port is taken, or the address is not this machine's.
        """
        address = address_text(host, port)
        try:
            bound = (
                self._server.add_insecure_port(address)
                if self._credentials is None
                else self._server.add_secure_port(address, self._credentials)
            )
        except RuntimeError:
            bound = 0
        if not bound:
            raise port_taken(address)
        await self._server.start()
        return bound

    async def drain(self) -> None:
        """Do nothing: grpc.aio tells clients to go when it stops."""

    async def unsent(self) -> int:
        """Unary calls that the core has not done with."""
        return self._handlers.open_calls

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those in flight this long, then cancel them."""
        await self._server.stop(grace_s)


def _credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    pair = (config.tls_key.read_bytes(), config.tls_certificate.read_bytes())
    if config.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    client_ca = config.tls_client_ca.read_bytes()
    return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=True)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, dispatcher: Dispatcher) -> None:
        self.open_calls = 0
        self._dispatcher = dispatcher
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name))
            if isinstance(method, Unary)
            # On the wire a stream serves whatever cardinality the client has.
            else grpc.stream_stream_rpc_method_handler(_stream(dispatcher, name))
            for name, method in dispatcher.methods.items()
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        return self._handlers.get(handler_call_details.method)

    def _unary(self, name: str) -> Any:
        def done(context: Any) -> None:
            self.open_calls -= 1

        async def handle(message: bytes, context: "aio.ServicerContext[bytes, bytes]") -> bytes:
            self.open_calls += 1
            context.add_done_callback(done)  # type: ignore[arg-type]  # the stubs' is no protocol
            try:
                return await self._dispatcher.unary(message, _call(name, context))
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
