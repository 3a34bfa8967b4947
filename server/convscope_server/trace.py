"""Traces of single requests in a file, as Triton's trace extension writes them.

Triton's docs/user_guide/trace.md tells the file's form: a JSON array of objects, for each
trace one that says of which request it is and one with its timestamps.
"""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from convscope_server.errors import StartupError

log = logging.getLogger(__name__)

# Traces that wait to be written; more are dropped rather than kept in memory.
_MAX_WAITING = 10_000
# Of the array, after its last object.
_END = b"\n]\n"


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Which requests are traced.

    Attributes:
        level: "OFF" or "TIMESTAMPS".
        rate: Every so many requests, one is.
        count: How many more are; -1 without end.
        log_frequency: Traces in a file, before the next one is begun; 0: all in one.
    """

    level: str = "OFF"
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """One request's way, in nanoseconds of the machine's monotonic clock.

    Attributes:
        timestamps: What happened, and when.
    """

    model_name: str
    model_version: str
    request_id: str
    timestamps: tuple[tuple[str, int], ...]


class _File:
    """A JSON array of traces, valid whenever it is looked at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def append(self, text: bytes) -> None:
        if not self.count:
            self.path.write_bytes(b"[\n" + text + _END)
        else:
            with self.path.open("r+b") as file:
                file.seek(-len(_END), os.SEEK_END)
                file.write(b",\n" + text + _END)
        self.count += 1


class Tracer:
    """Chooses the requests to trace, and writes their traces; belongs to one event loop.

    Attributes:
        path: The file; None: nothing can be traced.
        enabled: Whether any request may be traced: all that a request looks at otherwise.
    """

    def __init__(self, path: Path | None, submit: Callable[[Callable[[], None]], object]) -> None:
        """Trace nothing yet.

        Args:
            path: The file, written anew.
            submit: Runs a function in a thread, some time soon.

        Raises:
            StartupError: The file cannot be written.
        """
        if path is not None:
            try:
                path.write_bytes(b"[" + _END)
            except OSError as error:
                raise StartupError(
                    f"expected --trace-file to be a file that can be written, got {path}: "
                    f"{error.strerror}"
                ) from error
        self.path = path
        self.enabled = False
        self._submit = submit
        self._global = TraceSettings()
        self._models: dict[str, dict[str, str | int]] = {}
        self._seen: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._number = 0
        self._waiting: list[Trace] = []
        self._lock = Lock()  # one thread writes at a time
        # The file, or with log_frequency the one of its parts that is being filled.
        self._whole = None if path is None else _File(path)
        self._part: _File | None = None
        self._part_count = 0

    def settings(self, model: str = "") -> TraceSettings:
        """Those of a model, or those of all models that have none of their own."""
        return replace(self._global, **self._models.get(model, {}))  # type: ignore[arg-type]

    def change(self, changes: dict[str, str | int | None], model: str = "") -> None:
        """Change settings.

        Args:
            changes: Fields of TraceSettings; None takes a model's back to those of all, and
                those of all back to what they were at the start.
            model: Whose; empty for all.
        """
        if model:
            own = {**self._models.get(model, {}), **changes}
            self._models[model] = {key: value for key, value in own.items() if value is not None}
        else:
            start = TraceSettings()
            known = {
                key: getattr(start, key) if value is None else value
                for key, value in changes.items()
            }
            self._global = replace(self._global, **known)  # type: ignore[arg-type]
        levels = [self._global.level, *(own.get("level") for own in self._models.values())]
        self.enabled = self.path is not None and "TIMESTAMPS" in levels
        if model:
            self._left.pop(model, None)
        else:
            self._left.clear()

    def takes(self, model: str) -> bool:
        """Whether the model's next request is traced; asked once a request."""
        settings = self.settings(model)
        if settings.level == "OFF":
            return False
        self._seen[model] = self._seen.get(model, 0) + 1
        left = self._left.setdefault(model, settings.count)
        if self._seen[model] % settings.rate or not left:
            return False
        self._left[model] = left - (left > 0)
        return True

    def add(self, trace: Trace) -> None:
        """Write a trace, in a thread."""
        if len(self._waiting) >= _MAX_WAITING:
            return
        self._waiting.append(trace)
        if len(self._waiting) == 1:
            self._submit(self._write)

    def close(self) -> None:
        """Write what still waits."""
        self._write()

    def _write(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            try:
                for trace in waiting:
                    self._append(trace)
            except OSError as error:
                self.enabled = False
                log.error("tracing is off: the trace file cannot be written: %s", error.strerror)

    def _append(self, trace: Trace) -> None:
        self._number += 1
        told = (
            {
                "id": self._number,
                "model_name": trace.model_name,
                "model_version": int(trace.model_version),
                "request_id": trace.request_id,
            },
            {
                "id": self._number,
                "timestamps": [{"name": name, "ns": ns} for name, ns in trace.timestamps],
            },
        )
        text = ",\n".join(map(json.dumps, told)).encode()
        self._file().append(text)

    def _file(self) -> _File:
        """Where the next trace goes."""
        assert self._whole is not None  # noqa: S101 - nothing is taken otherwise
        frequency = self._global.log_frequency
        if not frequency:
            return self._whole
        if self._part is None or self._part.count >= frequency:
            path = self._whole.path
            self._part = _File(path.with_name(f"{path.name}.{self._part_count}"))
            self._part_count += 1
        return self._part
