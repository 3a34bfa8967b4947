"""The benchmarks run: every part, over every transport, against the services that there are."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (nghttp2-client)"),
]


def run(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)


def test_wire_measures_every_part_over_both_transports(tmp_path: Path) -> None:
    numbers = tmp_path / "wire.json"
    quick = ("--quick", "--models", "simple", "--seconds", "0.2", "--json", str(numbers))
    done = run("wire.py", *quick, "--in-flight", "1", "8", "--connections", "1", "8")
    assert done.returncode == 0, done.stderr
    cases = json.loads(numbers.read_text())["cases"]
    measured = {(case["part"], case["server"], case["transport"]) for case in cases}
    for transport in ("grpcio", "envoy"):
        for part in ("unary", "stream"):
            for server in ("echo", "Classify", "ModelInfer"):
                assert (part, server, transport) in measured
        assert ("bulk", "ModelInfer", transport) in measured
        assert ("start", "convscope", transport) in measured
        assert ("memory", "convscope", transport) in measured
    assert all(value > 0 for case in cases for one in case["rounds"] for value in one.values())
    assert "| one image a call: of its echo's calls/s | simple, Classify, envoy" in done.stdout


def test_calls_that_fail_are_no_measurement() -> None:
    # A limit that one image fits and 64 do not: the calls of "bulk" are answered with errors.
    done = run(
        *("wire.py", "--quick", "--models", "simple", "--transports", "grpcio", "--parts", "bulk"),
        *("--server-command", "convscope serve --max-message-bytes 100000"),
    )
    assert done.returncode != 0
    assert "RESOURCE_EXHAUSTED" in done.stderr


def test_call_cost_names_the_parts() -> None:
    done = run("call_cost.py", "--rounds", "1", "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    for part in ("| envoy | transport + dispatcher |", "| *so metrics* |", "| scheduling |"):
        assert part in done.stdout
