"""The one table from domain errors to gRPC status codes."""

from enum import IntEnum

from convscope_server import errors


class Code(IntEnum):
    """gRPC status codes, numbered as in grpc/grpc doc/statuscodes.md."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


CODES: dict[type[errors.ServerError], Code] = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.UnknownModel: Code.NOT_FOUND,
    errors.UnknownRegion: Code.NOT_FOUND,
    errors.AlreadyRegistered: Code.ALREADY_EXISTS,
    errors.Forbidden: Code.PERMISSION_DENIED,
    errors.Overloaded: Code.RESOURCE_EXHAUSTED,
    errors.ResponseTooLarge: Code.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.NotReady: Code.UNAVAILABLE,
    errors.ModelError: Code.INVALID_ARGUMENT,
    errors.RepositoryUnreadable: Code.UNAVAILABLE,
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.BackendFailure: Code.INTERNAL,
}


# gRPC's clients take 8 KiB of trailing metadata by default, and beyond it see another
# status than the one that was sent; on the wire, a byte may become three.
_MAX_MESSAGE_BYTES = 1000


class RpcFailure(Exception):  # noqa: N818 - gRPC calls it a status, of which OK is one too
    """How a failed call ends on the wire: a code, one line, trailing metadata."""

    def __init__(self, code: Code, message: str, *, retry_after_ms: int = 0) -> None:
        """Keep what a transport sends; retry_after_ms above 0 says when to try again."""
        encoded = message.encode(errors="replace")
        if len(encoded) > _MAX_MESSAGE_BYTES:
            message = encoded[:_MAX_MESSAGE_BYTES].decode(errors="ignore") + "…"
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata."""
        if not self.retry_after_ms:
            return ()
        # grpc/proposal A6: clients with a retry policy wait as long as this says.
        return (("grpc-retry-pushback-ms", str(self.retry_after_ms)),)


def rpc_failure(error: errors.ServerError) -> RpcFailure:
    """The wire's form of a domain error."""
    retry_after_ms = error.retry_after_ms if isinstance(error, errors.Overloaded) else 0
    code = CODES.get(type(error), Code.INTERNAL)
    return RpcFailure(code, str(error), retry_after_ms=retry_after_ms)
