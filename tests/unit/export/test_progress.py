import io

from rich.console import Console

from convscope_export.progress import TrainingProgress, download_progress
from convscope_export.training import EpochResult

RESULT = EpochResult(3, 1.234, 0.5, 0.625, 12_345.6)


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def show(console: Console) -> str:
    with TrainingProgress(console) as progress:
        progress.started(2, 40, 45_000)
        progress.stepped(2_000, 1.234, 0.5)
        progress.finished_epoch(RESULT)
    return text_of(console)


def test_without_a_terminal_there_is_one_line_per_epoch() -> None:
    assert show(console(terminal=False)).splitlines() == [
        "Going on after epoch 2 of 40.",
        "epoch  3/40  loss 1.234  train 50.0%  validation 62.5%  12,346 images/s",
    ]


def test_a_terminal_has_a_bar_as_well() -> None:
    shown = show(console(terminal=True))
    assert "epoch 3/40" in shown
    assert "loss 1.234  accuracy 50.0%" in shown
    assert "━" in shown
    assert "epoch  3/40  loss 1.234  train 50.0%  validation 62.5%" in shown


def test_a_finished_training_says_so() -> None:
    quiet = console(terminal=False)
    with TrainingProgress(quiet) as progress:
        progress.started(40, 40, 45_000)
    assert text_of(quiet) == "Already trained for 40 epochs: nothing to do.\n"


def test_a_download_shows_only_where_there_is_one() -> None:
    for terminal in (False, True):
        idle = console(terminal)
        with download_progress(idle):
            pass
        assert text_of(idle) == ""
    busy = console(terminal=True)
    with download_progress(busy) as report:
        report(0, 2_000_000)
        report(1_000_000, 2_000_000)
    assert "downloading CIFAR-10" in text_of(busy)
    assert "1.0/2.0 MB" in text_of(busy)
