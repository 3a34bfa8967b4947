"""What people do to a client that is neither its use nor a server's mistake."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from unit.clients.fake_classifier import solid

from convscope_client import AsyncClient, Client, FeatureRequest, InvalidRequest, Unavailable
from convscope_client.cli.features import features
from convscope_client.cli.together import in_order
from convscope_client.errors import Overloaded
from convscope_client.exit_codes import ExitCode
from convscope_client.feature_request import feature_requests


def test_features_may_be_any_iterable_and_none_is_lost() -> None:
    wish = FeatureRequest("pool1")
    requests = feature_requests(iter(["conv1", wish, "fc1"]))  # type: ignore[arg-type]
    assert requests == [FeatureRequest(["conv1", "fc1"]), wish]


@pytest.mark.parametrize("odd", [[None], [["conv1"]], [3]])
def test_features_of_another_kind_are_told(odd: Any) -> None:
    with pytest.raises(InvalidRequest, match="layer names and FeatureRequests, got"):
        feature_requests(odd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_k": 2.5}, "expected top_k as a whole number, got 2.5"),
        ({"top_k": "3"}, "expected top_k as a whole number, got '3'"),
        ({"priority": None}, "expected priority as a whole number, got None"),
        ({"version": 1}, "expected version as a string, got 1"),
        ({"model": None}, "expected model as a string, got None"),
    ],
)
@pytest.mark.usefixtures("address")
def test_values_of_another_kind_are_told(arguments: dict[str, Any], message: str) -> None:
    with Client() as client, pytest.raises(InvalidRequest, match=message):
        client.classify(solid(0), **arguments)


@pytest.mark.usefixtures("address")
def test_a_closed_client_is_unavailable() -> None:
    client = Client()
    client.close()
    with pytest.raises(Unavailable, match="is closed: make a new client"):
        client.classify(solid(0))

    async def scenario() -> None:
        later = AsyncClient()
        await later.close()
        with pytest.raises(Unavailable, match="is closed: make a new client"):
            await later.classify(solid(0))

    asyncio.run(scenario())


@pytest.mark.usefixtures("address")
def test_closing_ends_calls_in_flight_as_unavailable() -> None:
    async def scenario() -> None:
        client = AsyncClient()
        call = asyncio.create_task(client.classify(solid(0), model="slow"))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(Unavailable):
            await call
        # Its own cancellation stays one.
        other = AsyncClient()
        cancelled = asyncio.create_task(other.classify(solid(0), model="slow"))
        await asyncio.sleep(0.2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await other.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("address")
def test_a_picture_is_never_overwritten_by_its_feature_maps(pictures: list[Path]) -> None:
    before = pictures[0].read_bytes()
    output = str(pictures[0].parent / "{name}.png")
    result = CliRunner().invoke(features, [str(pictures[0]), "-o", output])
    assert result.exit_code == ExitCode.REJECTED
    assert "expected another file to write than the picture" in result.stderr
    assert pictures[0].read_bytes() == before


@pytest.mark.usefixtures("address")
def test_spaces_between_layer_names_do_not_matter(pictures: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "maps.npz"
    arguments = [str(pictures[0]), "--layers", "conv1, pool1", "-o", str(output)]
    assert CliRunner().invoke(features, arguments).exit_code == 0
    result = CliRunner().invoke(features, [str(pictures[0]), "--layers", ", ,"])
    assert result.exit_code == ExitCode.USAGE
    assert "expected layer names" in result.stderr


@pytest.mark.usefixtures("address")
def test_a_call_that_is_told_to_come_back_does() -> None:
    tries: list[int] = []

    def ask(item: int) -> int:
        tries.append(item)
        if tries.count(item) < 3:
            raise Overloaded("the queue is full", retry_after_s=0.001)
        return item

    with Client() as client:
        assert list(in_order(client, ask, range(5), 2)) == list(range(5))
    assert sorted(tries) == sorted([*range(5)] * 3)


def test_ctrl_c_does_not_wait_for_a_server_that_says_nothing(pictures: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        program = "from convscope_client.cli.main import main; main()"
        arguments = ["classify", str(pictures[0]), "--address", f"127.0.0.1:{port}"]
        command = [sys.executable, "-c", program, *arguments, "--timeout-s", "600"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                connection.recv(10)  # it has begun to speak
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                # Far less than the deadline of the call, which it once waited for.
                assert process.wait(60) == ExitCode.INTERRUPTED


@pytest.mark.usefixtures("address")
def test_a_name_that_is_too_long_for_a_file_is_one_line(pictures: list[Path]) -> None:
    program = "from convscope_client.cli.main import main; main()"
    arguments = ["features", str(pictures[0]), "-o", "x" * 300 + ".png"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.REJECTED
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")
    assert "File name too long" in done.stderr
