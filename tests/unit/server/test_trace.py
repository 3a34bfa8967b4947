"""Which requests are traced, and the file that their traces make."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
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


def test_models_without_settings_of_their_own_are_counted_together(tmp_path: Path) -> None:
    """As in Triton, where such models share one setting, and its counting."""
    tracer = Tracer(tmp_path / "trace.json", at_once)
    tracer.change({"level": "TIMESTAMPS", "rate": 2, "count": 3})
    tracer.change({"rate": 1, "count": 5}, "own")
    assert sum(tracer.takes(name) for _ in range(10) for name in ("one", "other")) == 3
    assert tracer.settings().count == tracer.settings("one").count == 0
    assert [tracer.takes("own") for _ in range(3)] == [True, True, True]
    assert tracer.settings("own").count == 2  # what is left


def test_every_change_begins_to_count_anew(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path / "trace.json", at_once)
    for _ in range(2):
        tracer.change({"level": "TIMESTAMPS", "rate": 3})
        assert [tracer.takes("tiny") for _ in range(5)] == [False, False, True, False, False]


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


def test_files_of_a_models_own_begin_as_often_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    tracer = Tracer(path, at_once)
    tracer.change({"level": "TIMESTAMPS"})
    tracer.change({"log_frequency": 2}, "own")
    for number in range(3):
        tracer.add(trace(f"tiny {number}"))
        tracer.add(replace(trace(f"own {number}"), model_name="own"))
    assert ids(path) == ["tiny 0", "tiny 1", "tiny 2"]
    assert ids(tmp_path / "trace.json.0") == ["own 0", "own 1"]
    assert ids(tmp_path / "trace.json.1") == ["own 2"]


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
    tracer.add(trace("one more"))
    submitted[1]()
    assert len(ids(path)) == 10_001


def test_traces_that_come_while_others_are_written_take_no_second_thread(tmp_path: Path) -> None:
    """Or a slow disk would take every thread that pictures are decoded in."""
    submitted: list[Callable[[], None]] = []
    tracer = Tracer(tmp_path / "trace.json", submitted.append)

    class Stamps(tuple[tuple[str, int], ...]):
        def __iter__(self) -> Iterator[tuple[str, int]]:
            for number in range(100):  # this is being written now
                tracer.add(trace(str(number)))
            return super().__iter__()

    tracer.add(replace(trace("first"), timestamps=Stamps()))
    submitted[0]()
    assert len(submitted) == 1
    assert ids(tmp_path / "trace.json") == ["first", *map(str, range(100))]


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
    tracer.add(trace("2"))
    assert not tracer.enabled
    assert tracer.settings().level == "OFF"
    assert caplog.text.count("tracing is off: the trace file cannot be written") == 1


def test_a_full_disk_leaves_the_file_whole(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; of a process of its own."""
    path = tmp_path / "trace.json"
    script = """if True:
        import resource, sys
        from pathlib import Path
        from convscope_server.trace import Trace, Tracer
        tracer = Tracer(Path(sys.argv[1]), lambda write: write())
        tracer.change({"level": "TIMESTAMPS", "rate": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for number in range(20):
            if tracer.enabled and tracer.takes("tiny"):
                tracer.add(Trace("tiny", "3", str(number), (("REQUEST_START", 1),)))
        tracer.close()
        print(tracer.enabled, tracer.settings().level)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "OFF"]
    assert done.stderr.count("tracing is off: the trace file cannot be written") == 1
    written = ids(path)
    assert written == [str(number) for number in range(len(written))]
    assert 5 < len(written) < 20
    assert path.stat().st_size <= 1000
