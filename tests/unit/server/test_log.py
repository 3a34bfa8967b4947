"""Which log lines are written, and in which form, while the server runs."""

import logging
import re
from collections.abc import Iterator

import pytest

from convscope_server.log import LogSettings, change_logging, configure_logging, log_settings

log = logging.getLogger("convscope_server.test")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger("convscope_server")
    before = root.handlers, root.level, root.propagate, log_settings()
    yield
    change_logging(before[3])
    root.handlers, root.level, root.propagate = before[:3]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(level, "a line")
    return [line.split()[1] for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"]),
        ("warning", ["WARNING", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_a_level_lets_itself_and_all_above_through(
    capsys: pytest.CaptureFixture[str], level: str, expected: list[str]
) -> None:
    configure_logging(level)
    assert lines(capsys) == expected


def test_each_severity_can_be_switched(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    change_logging(LogSettings(info=False, warning=True, error=False, verbose_level=2))
    assert lines(capsys) == ["DEBUG", "WARNING"]
    change_logging(LogSettings())
    assert lines(capsys) == ["INFO", "WARNING", "ERROR"]


def test_the_form_is_iso_8601_or_glogs(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    log.warning("first")
    change_logging(LogSettings(format="default"))
    log.warning("second")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING first", first)
    assert re.fullmatch(r"W\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ test_log\] second", second)
