"""Work in threads, whose caller may give up."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from convscope_server.inference import in_thread


def test_work_that_runs_is_waited_for_though_its_caller_is_cancelled() -> None:
    async def scenario() -> None:
        begun, told, ended = threading.Event(), threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            assert told.wait(30)
            ended.set()

        with ThreadPoolExecutor(1) as executor:
            call = asyncio.create_task(in_thread(executor, work, on_cancel=told.set))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert ended.is_set()

    asyncio.run(scenario())


def test_work_that_has_not_begun_never_does() -> None:
    async def scenario() -> None:
        gate, ran = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as executor:
            executor.submit(gate.wait, 30)
            call = asyncio.create_task(in_thread(executor, ran.set))
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            gate.set()
        assert not ran.is_set()

    asyncio.run(scenario())


def test_what_it_gives_and_raises_comes_through() -> None:
    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            assert await in_thread(executor, lambda: 7) == 7
            with pytest.raises(ZeroDivisionError):
                await in_thread(executor, lambda: 1 // 0)

    asyncio.run(scenario())
