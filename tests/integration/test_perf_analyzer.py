"""Triton's own load generator against the server, unmodified, over both transports."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import write_repository

# `make perf-analyzer` puts it there, from the last wheel of tritonclient that holds it.
_FOLDER = Path(sys.prefix) / "perf_analyzer"
_COMMAND = _FOLDER / "bin" / "perf_analyzer"
_ENVIRONMENT = {
    **os.environ,
    "LD_LIBRARY_PATH": str(_FOLDER / "nvidia" / "cuda_runtime" / "lib"),
}


def _why_not() -> str:
    if not _COMMAND.is_file():
        return "needs perf_analyzer: make perf-analyzer"
    started = subprocess.run(
        [_COMMAND, "--version"], env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if "cannot open shared object file" in started.stderr:
        return f"{started.stderr.strip()}: apt-get install libb64-0d brings libb64.so.0d"
    return ""


_WHY_NOT = _why_not()
pytestmark = pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    models = write_repository(tmp_path_factory.mktemp("models"))
    with running_server(models, request.param) as server:
        yield server


# A fixed number of requests, or three short windows: it need not wait for stable figures.
_FIXED = ("--request-count", "200")


@pytest.mark.parametrize(
    ("options", "points"),
    [
        (("--concurrency-range", "1:5:2", "-p", "300", "-r", "3", "-s", "99"), 3),
        (("--concurrency-range", "4", "--streaming", *_FIXED), 1),
        (("--concurrency-range", "4", "--async", *_FIXED), 1),
        (("--concurrency-range", "2", "--shared-memory", "system", *_FIXED), 1),
        (("--concurrency-range", "2", "-b", "8", *_FIXED), 1),
        (("--request-rate-range", "100", *_FIXED), 1),
    ],
    ids=["unary", "streaming", "async", "shared-memory", "batches", "rate"],
)
def test_perf_analyzer_measures_with_the_servers_statistics(
    server: RunningServer, options: tuple[str, ...], points: int
) -> None:
    done = subprocess.run(
        [str(_COMMAND), "-m", "tiny", "-i", "grpc", "-u", server.address, *options],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"Successful request count: (\d+)", done.stdout)
    assert len(counts) == points
    assert min(map(int, counts)) > 0
    latency = r"Avg request latency: \d+ usec \(overhead \d+ usec \+ queue \d+ usec \+ compute"
    assert len(re.findall(latency, done.stdout)) == points
