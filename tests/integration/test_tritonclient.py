"""An unmodified tritonclient against the server, over both transports."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import write_repository

from convscope_server.config import shipped_models

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
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_pages_example_runs_as_it_stands(tmp_path: Path) -> None:
    """Scores, conv1 and pool1 of the shipped model in one call."""
    page = (Path(__file__).parents[2] / "docs" / "open-inference.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with running_server(shipped_models()) as server:
        script = tmp_path / "example.py"
        script.write_text(example.replace("127.0.0.1:8001", server.address), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    expected = re.findall(r"  # (\(.*\))", example)
    assert done.stdout.splitlines() == expected
