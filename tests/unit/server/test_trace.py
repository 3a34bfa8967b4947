"""Which requests are traced, and the file that their traces make."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from convscope_server.errors import StartupError
from convscope_server.trace import Trace, Tracer


def trace(name: str) -> Trace:
    return Trace("tiny", "3", name, (("REQUEST_START", 1), ("REQUEST_END", 2)))


def at_once(function: Callable[[], None]) -> None:
    function()


def ids(path: Path) -> list[str]:
    return [entry["request_id"] for entry in json.loads(path.read_text())[::2]]


def test_nothing_is_traced_unless_somebody_asks(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path / "trace.json", at_once)
    assert not tracer.enabled
    assert not any(tracer.takes("tiny") for _ in range(2000))
    assert json.loads((tmp_path / "trace.json").read_text()) == []


def test_every_so_many_and_so_many_in_all(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path / "trace.json", at_once)
    tracer.change({"level": "TIMESTAMPS", "rate": 10, "count": 3})
    assert tracer.enabled
    taken = [number for number in range(1, 101) if tracer.takes("tiny")]
    assert taken == [10, 20, 30]
    tracer.change({"count": 1})  # begins anew
    assert sum(tracer.takes("tiny") for _ in range(100)) == 1


def test_a_model_may_have_settings_of_its_own(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path / "trace.json", at_once)
    tracer.change({"level": "TIMESTAMPS", "rate": 2}, "own")
    assert tracer.enabled
    assert sum(tracer.takes("own") for _ in range(10)) == 5
    assert sum(tracer.takes("other") for _ in range(10)) == 0
    tracer.change({"rate": 5})
    assert (tracer.settings("own").rate, tracer.settings("other").rate) == (2, 5)
    tracer.change({"rate": None}, "own")
    assert tracer.settings("own").rate == 5
    tracer.change({"count": 1})
    assert sum(tracer.takes("own") for _ in range(20)) == 1
    tracer.change({"rate": 1}, "other")
    assert not any(tracer.takes("own") for _ in range(20))  # what is left of another's stays
    tracer.change({"rate": None}, "other")
    tracer.change({"count": None})
    tracer.change({"level": None}, "own")
    assert not tracer.enabled
    tracer.change({"rate": None})
    assert tracer.settings().rate == 1000


def test_the_file_is_whole_after_every_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    tracer = Tracer(path, at_once)
    for number in range(5):
        tracer.add(trace(str(number)))
        assert ids(path) == [str(earlier) for earlier in range(number + 1)]
    (request, way, *_) = json.loads(path.read_text())
    assert request == {"id": 1, "model_name": "tiny", "model_version": 3, "request_id": "0"}
    assert way["timestamps"] == [
        {"name": "REQUEST_START", "ns": 1},
        {"name": "REQUEST_END", "ns": 2},
    ]


def test_a_new_file_begins_every_so_many_traces(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    tracer = Tracer(path, at_once)
    tracer.change({"log_frequency": 2})
    for number in range(5):
        tracer.add(trace(str(number)))
    assert [ids(tmp_path / f"trace.json.{number}") for number in range(3)] == [
        ["0", "1"],
        ["2", "3"],
        ["4"],
    ]


def test_no_trace_is_lost_when_files_begin_more_often_or_less(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    tracer = Tracer(path, at_once)
    number = 0
    for frequency, count in ((0, 3), (2, 5), (4, 5), (1, 2), (0, 2), (3, 4)):
        tracer.change({"log_frequency": frequency})
        for _ in range(count):
            tracer.add(trace(str(number)))
            number += 1
    found = [name for file in tmp_path.iterdir() for name in ids(file)]
    assert sorted(found, key=int) == [str(expected) for expected in range(number)]
    assert ids(path) == ["0", "1", "2", "15", "16"]


def test_what_waits_is_written_in_one_go_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    submitted: list[Callable[[], None]] = []
    tracer = Tracer(path, submitted.append)
    for number in range(10_100):
        tracer.add(trace(str(number)))
    assert len(submitted) == 1
    tracer.close()
    assert len(ids(path)) == 10_000
    submitted[0]()  # comes late, and finds nothing to do
    assert len(ids(path)) == 10_000


def test_a_file_that_cannot_be_written_is_told_at_the_start_or_switches_tracing_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError, match="expected --trace-file to be a file that can be"):
        Tracer(tmp_path / "absent" / "trace.json", at_once)
    folder = tmp_path / "there"
    folder.mkdir()
    tracer = Tracer(folder / "trace.json", at_once)
    tracer.change({"level": "TIMESTAMPS"})
    (folder / "trace.json").unlink()
    folder.rmdir()
    logging.getLogger("convscope_server").propagate = True
    tracer.add(trace("1"))
    assert not tracer.enabled
    assert "tracing is off: the trace file cannot be written" in caplog.text
