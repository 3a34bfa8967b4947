"""What supervisor and worker say to each other over the worker's three standard pipes.

Standard input brings the settings and then stays open: its end tells the worker that
the supervisor is gone. Standard output takes the messages below, one a line. Standard
error takes the log.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from convscope_server.config import ServerConfig

# The worker's event loop ran just now; sent all the time.
BEAT = b"beat"
# It takes requests.
READY = b"ready"
# It ends because it cannot start; the reason follows, one line of UTF-8.
FAILED = b"failed "

# How often a worker sends BEAT.
BEAT_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told when it starts.

    Attributes:
        number: Which of the workers it is, from 1; a restarted one has its
            predecessor's, and goes on with its metrics.
        config: Of the server; port is the shared one, thread_count this worker's share.
        metrics_folder: Where workers keep their metrics.
    """

    number: int
    config: ServerConfig
    log_level: str
    metrics_folder: Path

    def to_bytes(self) -> bytes:
        """The settings as from_file() reads them."""
        content = pickle.dumps(self)
        return len(content).to_bytes(4, "big") + content

    @staticmethod
    def from_file(file: BinaryIO) -> "WorkerSettings":
        """Read the settings, and not a byte more, since the pipe stays open."""
        size_bytes = int.from_bytes(file.read(4), "big")
        settings: WorkerSettings = pickle.loads(file.read(size_bytes))  # noqa: S301 - our parent's
        return settings
