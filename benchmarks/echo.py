"""The least that either transport can do: answer every message with as many bytes as asked for.

    python benchmarks/echo.py

is a grpc.aio server, which prints the port it listens on; `app` is the same as an ASGI
application for Envoy. The path says what comes back, /echo/unary/BYTES or
/echo/stream/BYTES: one message of so many bytes for each that came. Thus an echo can
be sent a server's requests and answer with as many bytes as that server does.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc

_HEADERS = [(b"content-type", b"application/grpc")]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_LAST_BODY = {"type": "http.response.body", "body": b""}
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_PREFIX_BYTES = 5


@functools.cache
def _answer(path: str) -> bytes:
    return bytes(int(path.rpartition("/")[2]))


@functools.cache
def _frame(path: str) -> bytes:
    message = _answer(path)
    return b"\0" + len(message).to_bytes(4, "big") + message


class _Handlers(grpc.GenericRpcHandler):
    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return _handler(handler_call_details.method)


@functools.cache
def _handler(path: str) -> "grpc.RpcMethodHandler[bytes, bytes]":
    answer = _answer(path)

    async def unary(_: bytes, __: object) -> bytes:
        return answer

    async def stream(messages: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for _message in messages:
            yield answer

    if path.startswith("/echo/stream/"):
        return grpc.stream_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(unary)


async def lifespan(receive: Any, send: Any) -> None:
    """ASGI's start and stop, with nothing to do at either."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Echo; inside Envoy."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"].startswith("/echo/stream/"):
        await _stream(_frame(scope["path"]), receive, send)
    else:
        await _unary(_frame(scope["path"]), receive, send)


async def _unary(frame: bytes, receive: Any, send: Any) -> None:
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        more = event["more_body"]
    await send(_START)
    await send({"type": "http.response.body", "body": frame})
    await send(_OK)


async def _stream(frame: bytes, receive: Any, send: Any) -> None:
    """Answer the messages that one chunk completes together."""
    await send(_START)
    held, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        more = event["more_body"]
        data = held + event["body"]
        start = count = 0
        while len(data) - start >= _PREFIX_BYTES:
            size = int.from_bytes(data[start + 1 : start + _PREFIX_BYTES], "big")
            if len(data) - start < _PREFIX_BYTES + size:
                break
            start += _PREFIX_BYTES + size
            count += 1
        held = data[start:]
        if count:
            body = {"type": "http.response.body", "body": frame * count, "more_body": True}
            await send(body)
    await send(_LAST_BODY)
    await send(_OK)


async def serve(handlers: grpc.GenericRpcHandler) -> None:
    """Answer with these handlers on a free port, printed, until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(_Handlers()))
