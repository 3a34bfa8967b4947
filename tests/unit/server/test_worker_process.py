import asyncio
import os
import signal

import pytest

from convscope_server.worker_process import _pass_on, how_it_ended


def passed_on(capfd: pytest.CaptureFixture[str], *chunks: bytes) -> str:
    """What becomes of a log that comes in these pieces."""

    async def run() -> None:
        read, write = os.pipe()
        reader = asyncio.StreamReader()
        with os.fdopen(read, "rb") as file:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), file
            )
            passing = asyncio.create_task(_pass_on(reader, b"worker 7: "))
            for chunk in chunks:
                os.write(write, chunk)
                await asyncio.sleep(0)
            os.close(write)
            await passing
            transport.close()

    asyncio.run(run())
    return capfd.readouterr().err


def test_each_line_says_which_worker_it_is_from(capfd: pytest.CaptureFixture[str]) -> None:
    text = passed_on(
        capfd,
        b"2026-01-02T03:04:05.678Z INFO    ready\n2026-01-02T03:04:05.678Z WAR",
        b"NING  slow\nTraceback (most recent call last):\n",
        b"no end",
    )
    assert text.splitlines() == [
        "2026-01-02T03:04:05.678Z INFO    worker 7: ready",
        "2026-01-02T03:04:05.678Z WARNING  worker 7: slow",
        "worker 7: Traceback (most recent call last):",
        "worker 7: no end",
    ]


def test_a_line_of_any_length_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    text = passed_on(capfd, *[b"x" * 10_000] * 6, b"\n")  # together they fit into the pipe
    assert text == "worker 7: " + "x" * 60_000 + "\n"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_how_it_ended(status: int, words: str) -> None:
    assert how_it_ended(status) == words
