"""What the launcher and the server inside Envoy tell each other, over one pipe.

Signal numbers go in, Messages come out. The end of the pipe is a message too:
whoever reads it knows that the other process is gone.
"""

from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from convscope_server.config import ServerConfig

# The environment variable with the number of the pipe's file descriptor.
PIPE_VARIABLE = "CONVSCOPE_ENVOY_PIPE"


@dataclass(frozen=True, slots=True)
class Handover:
    """The launcher's first message.

    Attributes:
        config: The settings, checked, with absolute paths.
        log_level: Least severe log lines to write.
        folder: Of this server alone, removed at its end.
        admin_socket: Where Envoy takes orders.
    """

    config: ServerConfig
    log_level: str
    folder: Path
    admin_socket: Path


class Note(Enum):
    """Messages that say no more than themselves."""

    # To the server: is the event loop alive? And its answer, the first one unasked.
    PING = auto()
    PONG = auto()
    # From the server: drained and stopped; the process can end.
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class Failed:
    """From the server: it could not start, or has ended, and this is why."""

    message: str
