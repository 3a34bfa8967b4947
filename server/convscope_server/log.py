"""Log lines for people: time, level, where, what."""

import logging
import sys
import time


def configure_logging(level: str) -> None:
    """Write log lines of this level and above to standard error, times in UTC."""
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger("convscope_server")
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False
