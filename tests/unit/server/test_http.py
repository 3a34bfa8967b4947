import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from convscope_server.http import HttpServer


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_readiness_and_liveness(loop: asyncio.AbstractEventLoop) -> None:
    registry = CollectorRegistry()
    Counter("things", "Things.", registry=registry).inc(3)
    ready, hung = True, ""
    server = HttpServer(registry, is_ready=lambda: ready, loop=loop, hung=lambda: hung)
    port = server.start("127.0.0.1", 0)
    try:
        status, text = get(port, "/metrics")
        assert (status, "things_total 3.0" in text) == (200, True)
        assert "\nconvscope_ready 1.0\n" in text
        assert get(port, "/readyz") == (200, "ready\n")
        assert get(port, "/healthz") == (200, "alive\n")
        assert get(port, "/other") == (404, "expected /metrics, /healthz or /readyz\n")
        ready, hung = False, "worker 2"
        assert get(port, "/readyz") == (503, "not ready\n")
        assert "\nconvscope_ready 0.0\n" in get(port, "/metrics")[1]
        assert get(port, "/healthz") == (503, "worker 2 hangs\n")
    finally:
        server.stop()


def test_liveness_fails_while_the_event_loop_hangs(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convscope_server.http._LOOP_ANSWERS_WITHIN_S", 0.05)
    server = HttpServer(CollectorRegistry(), is_ready=lambda: True, loop=loop)
    port = server.start("127.0.0.1", 0)
    hang = threading.Event()
    try:
        loop.call_soon_threadsafe(hang.wait)
        assert get(port, "/healthz") == (503, "the event loop hangs\n")
        hang.set()
        deadline_s = time.monotonic() + 10
        while get(port, "/healthz")[0] != 200:
            assert time.monotonic() < deadline_s
    finally:
        hang.set()
        server.stop()
