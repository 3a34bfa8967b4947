"""What a call can fail with: a small tree of exceptions; knows no gRPC.

Every message is one line that says what was expected, what came and, where it
helps, what to do. Most of them are the server's own words.
"""

from typing import ClassVar

from convscope_client.exit_codes import ExitCode


class ClientError(Exception):
    """Base of everything that the client raises on purpose.

    Attributes:
        exit_code: What the command line exits with.
        is_retryable: Whether the same call may succeed later.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.SERVER_ERROR
    is_retryable: ClassVar[bool] = False


class InvalidRequest(ClientError, ValueError):  # noqa: N818 - gRPC's and the design's words, all of them
    """What was given or asked for is not right; found here or by the server."""

    exit_code = ExitCode.REJECTED


class NotFound(ClientError):  # noqa: N818
    """The server holds no such model, version or service."""

    exit_code = ExitCode.REJECTED


class LimitExceeded(ClientError):  # noqa: N818
    """The request or its answer is larger than a limit allows; ask for less."""

    exit_code = ExitCode.REJECTED


class Unauthenticated(ClientError):  # noqa: N818
    """The server wants credentials, or does not accept those that came."""

    exit_code = ExitCode.REJECTED


class Unsupported(ClientError):  # noqa: N818
    """What answers at the address does not offer this call."""

    exit_code = ExitCode.REJECTED


class Overloaded(ClientError):  # noqa: N818
    """The server's queue is full.

    Attributes:
        retry_after_s: How long the server asks to wait before trying again, in seconds.
    """

    exit_code = ExitCode.UNAVAILABLE
    is_retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        """Keep the message and the server's hint."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(ClientError):  # noqa: N818
    """The server cannot be reached, is not ready, or is shutting down."""

    exit_code = ExitCode.UNAVAILABLE
    is_retryable = True


class DeadlineExceeded(ClientError):  # noqa: N818
    """The deadline passed before the answer came."""

    exit_code = ExitCode.DEADLINE


class ServerError(ClientError):
    """The server failed, or its answer cannot be read; its log says why."""

    exit_code = ExitCode.SERVER_ERROR
