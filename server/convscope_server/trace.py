"""Traces of single requests in a file, as Triton's trace extension writes them.

Triton's docs/user_guide/trace.md tells the file's form: a JSON array of objects, for each
trace one that says of which request it is and one with its timestamps.
"""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from io import FileIO
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
        path.write_bytes(b"[" + _END)
        self.path = path
        self.count = 0

    def append(self, text: bytes) -> None:
        # Unbuffered: what a full disk did not take must not come later.
        with self.path.open("r+b", buffering=0) as file:
            end = file.seek(-len(_END), os.SEEK_END)
            try:
                _write_all(file, (b",\n" if self.count else b"\n") + text + _END)
            except OSError:
                # As it was before; this needs no room that the file had not already.
                with suppress(OSError):
                    file.truncate(end)
                    file.seek(end)
                    _write_all(file, _END)
                raise
        self.count += 1


class _Sampling:
    """Settings in force, and where their counting stands."""

    def __init__(self, settings: TraceSettings) -> None:
        self.settings = settings
        self.left = settings.count
        self._seen = 0

    def takes_next(self) -> bool:
        if self.settings.level == "OFF" or not self.left:
            return False
        self._seen += 1
        if self._seen % self.settings.rate:
            return False
        self.left -= self.left > 0
        return True


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
        self.path = path
        self.enabled = False
        self._submit = submit
        self._global = TraceSettings()
        self._own: dict[str, dict[str, str | int]] = {}
        # By model, of those with settings of their own; all others share the one under "".
        self._samplings = {"": _Sampling(self._global)}
        self._number = 0
        self._waiting: list[Trace] = []
        self._is_writing = False
        self._waiting_lock = Lock()  # held for moments: the event loop waits for it
        self._file_lock = Lock()  # one thread writes at a time
        # The file, and of settings with a log_frequency the part that is being filled.
        self._whole: _File | None = None
        self._parts: dict[str, _File] = {}
        self._part_count = 0
        self._has_failed = False  # since settings were last changed, and it was told
        if path is not None:
            try:
                self._whole = _File(path)
            except OSError as error:
                raise StartupError(
                    f"expected --trace-file to be a file that can be written, got {path}: "
                    f"{error.strerror}"
                ) from error

    def settings(self, model: str = "") -> TraceSettings:
        """Those of a model, or those of all models that have none of their own.

        The count is of traces that are left, as Triton tells it.
        """
        sampling = self._sampling(model)
        return replace(sampling.settings, count=sampling.left)

    def change(self, changes: dict[str, str | int | None], model: str = "") -> None:
        """Change settings; the requests that these are for are counted anew.

        Args:
            changes: Fields of TraceSettings; None takes a model's back to those of all, and
                those of all back to what they were at the start.
            model: Whose; empty for all.
        """
        self._has_failed = False
        if model:
            own = {**self._own.pop(model, {}), **changes}
            if kept := {key: value for key, value in own.items() if value is not None}:
                self._own[model] = kept
            self._samplings.pop(model, None)
        else:
            start = TraceSettings()
            known = {
                key: getattr(start, key) if value is None else value
                for key, value in changes.items()
            }
            self._global = replace(self._global, **known)  # type: ignore[arg-type]
            # A model's own settings hold some of these too.
            self._samplings = {"": _Sampling(self._global)}
        for name, own_settings in self._own.items():
            if name not in self._samplings:
                self._samplings[name] = _Sampling(
                    replace(self._global, **own_settings)  # type: ignore[arg-type]
                )
        self.enabled = self.path is not None and any(
            sampling.settings.level != "OFF" for sampling in self._samplings.values()
        )

    def takes(self, model: str) -> bool:
        """Whether the model's next request is traced; asked once a request."""
        return self._sampling(model).takes_next()

    def add(self, trace: Trace) -> None:
        """Write a trace, in a thread."""
        with self._waiting_lock:
            if len(self._waiting) >= _MAX_WAITING:
                return
            self._waiting.append(trace)
            if self._is_writing:
                return
            self._is_writing = True
        self._submit(self._write)

    def close(self) -> None:
        """Write what still waits."""
        self._write()

    def _sampling(self, model: str) -> _Sampling:
        return self._samplings.get(model) or self._samplings[""]

    def _write(self) -> None:
        with self._file_lock:
            while waiting := self._taken():
                try:
                    for trace in waiting:
                        self._append(trace)
                except OSError as error:
                    self._switch_off(error)

    def _taken(self) -> list[Trace]:
        """What waits; nothing, if the thread that writes may go."""
        with self._waiting_lock:
            taken, self._waiting = self._waiting, []
            self._is_writing = bool(taken)
            return taken

    def _switch_off(self, error: OSError) -> None:
        """Trace no more, and tell so, until somebody switches it on again."""
        if not self._has_failed:
            log.error("tracing is off: the trace file cannot be written: %s", error.strerror)
        self._has_failed, self.enabled = True, False
        self._global = replace(self._global, level="OFF")
        self._own = {}
        self._samplings = {"": _Sampling(self._global)}
        self._parts = {}

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
        self._file(trace.model_name).append(text)

    def _file(self, model: str) -> _File:
        """Where a model's next trace goes."""
        assert self._whole is not None  # noqa: S101 - nothing is taken otherwise
        owner = model if model in self._samplings else ""
        frequency = self._sampling(model).settings.log_frequency
        if not frequency:
            return self._whole
        part = self._parts.get(owner)
        if part is None or part.count >= frequency:
            path = self._whole.path
            part = _File(path.with_name(f"{path.name}.{self._part_count}"))
            self._part_count += 1
            self._parts[owner] = part
        return part


def _write_all(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
