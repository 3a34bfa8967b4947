"""Log lines for people: time, level, where, what."""

import logging
import sys
import time
from dataclasses import dataclass

_ROOT = "convscope_server"
FORMATS = ("ISO8601", "default")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written.

    Attributes:
        info, warning, error: Whether lines of this severity are.
        verbose_level: From 1 on, lines for debugging too.
        format: "ISO8601", as the server starts with, or "default", as Triton and glog write:
            severity, month, day, time, thread, module.
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose_level: int = 0
    format: str = "ISO8601"

    def wants(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if record.levelno >= logging.ERROR:
            return self.error
        if record.levelno >= logging.WARNING:
            return self.warning
        return self.info if record.levelno >= logging.INFO else self.verbose_level > 0


class _GlogFormatter(logging.Formatter):
    """As Triton's log_format "default": I1123 05:04:47.123000 42 app] message."""

    def format(self, record: logging.LogRecord) -> str:
        record.severity = record.levelname[0]
        return super().format(record)


_FORMATTERS: dict[str, logging.Formatter] = {
    "ISO8601": logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    ),
    "default": _GlogFormatter(
        "%(severity)s%(asctime)s.%(msecs)03d000 %(thread)d %(module)s] %(message)s",
        datefmt="%m%d %H:%M:%S",
    ),
}
for _formatter in _FORMATTERS.values():
    _formatter.converter = time.gmtime


# As logging itself, one of a process.
_current = LogSettings()


def configure_logging(level: str) -> None:
    """Write log lines of this level and above to standard error, times in UTC."""
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger(_ROOT)
    root.handlers = [logging.StreamHandler(sys.stderr)]
    root.propagate = False
    change_logging(
        LogSettings(
            info=number <= logging.INFO,
            warning=number <= logging.WARNING,
            verbose_level=int(number <= logging.DEBUG),
        )
    )


def log_settings() -> LogSettings:
    """What is written now."""
    return _current


def change_logging(settings: LogSettings) -> None:
    """Write this from now on."""
    global _current
    _current = settings
    root = logging.getLogger(_ROOT)
    root.setLevel(logging.DEBUG if settings.verbose_level else logging.INFO)
    for handler in root.handlers:
        handler.filters = [settings.wants]
        handler.setFormatter(_FORMATTERS[settings.format])
