"""What can go wrong with a request or a model, in the domain's words; knows no transport.

status.py maps each to a gRPC code. Every message says what was expected, what
came, and where it helps what to do; none holds a path of this machine.
"""

from collections.abc import Iterable


class ServerError(Exception):
    """Base of all errors that a caller or an operator is told about."""


class InvalidRequest(ServerError):  # noqa: N818 - the words of the design's error table
    """The request can never be answered: a wrong shape or dtype, or a broken picture."""


class UnknownModel(ServerError):  # noqa: N818
    """The server holds no such model or version."""


class UnknownRegion(ServerError):  # noqa: N818
    """No shared memory is registered under such a name."""


class AlreadyRegistered(ServerError):  # noqa: N818
    """Shared memory is registered under this name already."""


class Forbidden(ServerError):  # noqa: N818
    """This caller may not do that."""


class Overloaded(ServerError):  # noqa: N818
    """Too much is asked for at this moment; the same request may succeed later.

    Attributes:
        reason: In a word, for metrics: "queue_full", "predicted_wait", "memory",
            "sessions", "calls".
        retry_after_ms: How long to wait before trying again, at least 1.
    """

    def __init__(self, message: str, *, reason: str, retry_after_ms: int) -> None:
        """Keep the message, the reason and the hint."""
        super().__init__(message)
        self.reason = reason
        self.retry_after_ms = max(1, retry_after_ms)


class ResponseTooLarge(ServerError):  # noqa: N818
    """The answer would exceed the server's limit; found before anything ran."""


class DeadlineExceeded(ServerError):  # noqa: N818
    """The caller's deadline passed before its rows were computed."""


class NotReady(ServerError):  # noqa: N818
    """The server is starting or draining; another one, or this one later, can answer."""


class Unsupported(ServerError):  # noqa: N818
    """The request asks for what this server does not do."""


class BackendFailure(ServerError):  # noqa: N818
    """The runtime failed while it computed a batch."""


class ModelError(ServerError):
    """A model file that this server cannot serve: not ONNX, unsafe, or of another kind."""


class StartupError(ServerError):
    """The server cannot start: a port is taken, or a folder holds no model."""


class ProcessDied(ServerError):  # noqa: N818
    """The process that serves ended, or hangs, and nobody asked it to."""


class RepositoryUnreadable(ServerError):  # noqa: N818
    """The model repository is not there or cannot be listed; says nothing of its models."""


def shortened(names: Iterable[str], limit: int = 8) -> str:
    """A list of names for an error's text: the first of them, and how many more there are."""
    listed = list(names)
    text = ", ".join(listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"
