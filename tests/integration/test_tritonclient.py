"""An unmodified tritonclient against the server, over both transports."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import write_repository

_SESSIONS = Path(__file__).parents[1] / "support" / "triton_inference.py"


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    models = write_repository(tmp_path_factory.mktemp("models"))
    with running_server(models, request.param) as server:
        yield server


@pytest.mark.parametrize(
    "session",
    [
        *("describe", "infer", "pictures", "classification", "asynchronous"),
        *("streaming", "strict_streaming", "shared", "errors"),
    ],
)
def test_a_session_of_tritonclient_goes_as_it_should(server: RunningServer, session: str) -> None:
    """What each session does, and what it expects, is in support/triton_inference.py."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", _SESSIONS, session, server.address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
