"""The least that an ASGI application inside Envoy can do: answer with the request's bytes."""

from collections.abc import Mapping
from typing import Any

_HEADERS = [(b"content-type", b"application/grpc")]
_TRAILERS = [(b"grpc-status", b"0")]


async def app(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Echo; the five bytes of gRPC's prefix come back as they came."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event["body"]
        more = event["more_body"]
    await send(
        {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
    )
    await send({"type": "http.response.body", "body": body})
    await send({"type": "http.response.trailers", "headers": _TRAILERS})
