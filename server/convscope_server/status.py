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
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


CODES: dict[type[errors.ServerError], Code] = {
    errors.InvalidRequest: Code.INVALID_ARGUMENT,
    errors.UnknownModel: Code.NOT_FOUND,
    errors.Overloaded: Code.RESOURCE_EXHAUSTED,
    errors.ResponseTooLarge: Code.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.NotReady: Code.UNAVAILABLE,
    errors.ModelError: Code.INVALID_ARGUMENT,
    errors.RepositoryUnreadable: Code.UNAVAILABLE,
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.BackendFailure: Code.INTERNAL,
}


class RpcFailure(Exception):  # noqa: N818 - gRPC calls it a status, of which OK is one too
    """How a failed call ends on the wire: a code, one line, trailing metadata."""

    def __init__(
        self, code: Code, message: str, trailers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Keep what a transport sends."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailers = trailers


def rpc_failure(error: errors.ServerError) -> RpcFailure:
    """The wire's form of a domain error."""
    if isinstance(error, errors.Overloaded):
        # grpc/proposal A6: clients with a retry policy wait as long as this says.
        trailers = (("grpc-retry-pushback-ms", str(error.retry_after_ms)),)
        return RpcFailure(CODES[errors.Overloaded], str(error), trailers)
    return RpcFailure(CODES.get(type(error), Code.INTERNAL), str(error))
