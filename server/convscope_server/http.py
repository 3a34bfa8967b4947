"""HTTP for Prometheus and for probes: /metrics, /healthz, /readyz."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from convscope_server.errors import StartupError

# An event loop that does not answer for this long is taken for hung.
_LOOP_ANSWERS_WITHIN_S = 2.0
# Each connection has a thread: one that says nothing must not keep it.
_CLIENT_ANSWERS_WITHIN_S = 10.0


class HttpServer:
    """Answers from threads of its own, so it can tell that the event loop hangs."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        is_ready: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
        hung: Callable[[], str] = lambda: "",
    ) -> None:
        """Make a server; nothing listens yet.

        Args:
            registry: What /metrics shows; convscope_ready joins it.
            is_ready: What /readyz tells.
            loop: The event loop that /healthz tries.
            hung: What else hangs, for /healthz to tell; empty if nothing does.
        """
        Gauge(
            "convscope_ready", "1 while the server takes requests, else 0.", registry=registry
        ).set_function(lambda: float(is_ready()))
        self._metrics_app = make_wsgi_app(registry)
        self._is_ready = is_ready
        self._loop = loop
        self._hung = hung
        self._server: ThreadingWSGIServer | None = None

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which differs from the one given if that was 0.

        Raises:
            StartupError: The port is taken, or the address is not this machine's.
        """
        try:
            self._server = make_server(
                host,
                port,
                self._answer,
                server_class=_Ipv6Server if ":" in host else _Server,
                handler_class=_Quiet,
            )
        except OSError as error:
            raise StartupError(
                f"expected to listen for HTTP on {host}:{port}: {error.strerror}; stop what "
                "listens there, or choose another with --metrics-port"
            ) from error
        thread = threading.Thread(
            target=self._server.serve_forever, name="convscope-http", daemon=True
        )
        thread.start()
        return self._server.server_port

    def stop(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            exposition: Iterable[bytes] = self._metrics_app(environ, start_response)
            return exposition
        if path == "/readyz":
            ready = self._is_ready()
            return _text(start_response, ready, "ready" if ready else "not ready")
        if path == "/healthz":
            hung = self._hung() if self._loop_answers() else "the event loop"
            return _text(start_response, not hung, f"{hung} hangs" if hung else "alive")
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"expected /metrics, /healthz or /readyz\n"]

    def _loop_answers(self) -> bool:
        try:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(
                _LOOP_ANSWERS_WITHIN_S
            )
        except (FutureTimeoutError, RuntimeError):  # RuntimeError: the loop is closed
            return False
        return True


class _Server(ThreadingWSGIServer):
    def server_bind(self) -> None:
        """Bind without WSGIServer's look-up of our name, which may take seconds, or fail."""
        TCPServer.server_bind(self)
        host, self.server_port = self.server_address[:2]
        self.server_name = str(host)
        self.setup_environ()


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = _CLIENT_ANSWERS_WITHIN_S

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: no line for each."""


def _text(start_response: Any, good: bool, text: str) -> Iterable[bytes]:
    status = "200 OK" if good else "503 Service Unavailable"
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
