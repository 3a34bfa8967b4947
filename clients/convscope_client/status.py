"""The one table from gRPC's status codes to the client's errors."""

from typing import Any

import grpc

from convscope_client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Overloaded,
    ServerError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

BY_CODE: dict[grpc.StatusCode, type[ClientError]] = {
    # The server's end of a connection going away can show as CANCELLED or ABORTED.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequest,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    # With a hint when to try again it is Overloaded: see from_rpc_error().
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}

# gRPC's own texts for a connection that never came about, or broke.
_UNREACHABLE = (
    "failed to connect",
    "DNS resolution failed",
    "errors resolving",
    "Socket closed",
    "Connection reset",
    "Stream removed",
    "recvmsg",
)
# grpc/proposal A6: how long a client that tries again is to wait. The server
# sends it with Overloaded only, never with an answer that is too large.
_RETRY_HINT = "grpc-retry-pushback-ms"


def from_rpc_error(error: grpc.RpcError, *, address: str, timeout_s: float) -> ClientError:
    """The exception for a call that ended with a status other than OK.

    Args:
        error: What grpc or grpc.aio raised.
        address: Where the call went; some messages name it.
        timeout_s: The deadline that the call had, in seconds.
    """
    call: Any = error  # both raise objects that are Calls too; their declared type does not say so
    code: grpc.StatusCode = call.code()
    details = " ".join((call.details() or code.name).split())
    kind = BY_CODE.get(code, ServerError)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry_after_s = _retry_after_s(call.trailing_metadata())
        if retry_after_s is not None:
            return Overloaded(details, retry_after_s=retry_after_s)
    return kind(_message(kind, details, address, timeout_s))


def _message(kind: type[ClientError], details: str, address: str, timeout_s: float) -> str:
    if kind is Unavailable and any(words in details for words in _UNREACHABLE):
        # Behind the last colon stands what the operating system said.
        reason = details.rpartition(": ")[2].rpartition(":")[2].rstrip("]")
        return (
            f"expected a server at {address}, got no connection ({reason}): is it running? "
            "Start it with convscope serve, or name another address"
        )
    if kind is LimitExceeded and "larger than max" in details:  # gRPC's words, from either end
        return f"{details}: send, or ask for, less in one request"
    if kind is DeadlineExceeded:
        return f"no answer from {address} within {timeout_s:g} s: {details}"
    if kind is Unsupported:
        return f"expected a convscope server at {address}, got another one, or an older: {details}"
    if kind is ServerError:
        return f"the server at {address} failed, its log says why: {details}"
    return details


def _retry_after_s(trailers: Any) -> float | None:
    for key, value in trailers or ():
        if key == _RETRY_HINT:
            try:
                return max(0, int(value)) / 1000
            except ValueError:
                return None
    return None
