import dataclasses
import json
from pathlib import Path

import pytest
import torch
from support.tiny_cifar import Recorder, tiny_data

from convscope_export import run
from convscope_export.checkpoint import CheckpointMismatchError
from convscope_export.cifar10 import LABELS, VALIDATION_IMAGES, Cifar10
from convscope_export.evaluation import evaluate
from convscope_export.notation import parse
from convscope_export.presets import SIMPLE
from convscope_export.run import RECORD_NAME, RunError
from convscope_export.training import TrainingError, scores_of


@pytest.fixture(scope="module")
def data() -> Cifar10:
    return tiny_data()


def test_a_finished_run_holds_all_that_an_export_needs(data: Cifar10, tmp_path: Path) -> None:
    record = run.train(SIMPLE, data, tmp_path, Recorder(), seed=5, epochs=2)
    assert json.loads((tmp_path / RECORD_NAME).read_text()) == dataclasses.asdict(record)
    assert record.recipe["epochs"] == 2
    assert record.seed == 5
    assert record.data["train_images"] == len(data.train) - VALIDATION_IMAGES
    assert record.data["validation_images"] == VALIDATION_IMAGES
    assert record.data["sha256"] == data.sha256
    assert record.accuracy["images"] == len(data.test)
    assert len(record.curve) == 2
    assert record.versions["torch"] == torch.__version__

    loaded, network = run.load(tmp_path)
    assert loaded == record
    mean, std = record.normalization["mean"], record.normalization["std"]
    again = evaluate(scores_of(network, mean, std), data.test, LABELS)
    assert again.top1 == record.accuracy["top1"]


def test_training_a_finished_run_again_changes_nothing(data: Cifar10, tmp_path: Path) -> None:
    first = run.train(SIMPLE, data, tmp_path, Recorder(), epochs=1)
    path = tmp_path / RECORD_NAME
    path.write_text(path.read_text().replace('"python"', '"old python"'))
    again = run.train(SIMPLE, data, tmp_path, Recorder(), epochs=1)
    assert "old python" in again.versions
    assert dataclasses.replace(again, versions=first.versions) == first
    path.write_text("damaged")
    assert run.train(SIMPLE, data, tmp_path, Recorder(), epochs=1) == first
    assert run.load(tmp_path)[0] == first


def test_more_images_than_there_are_is_an_error(data: Cifar10, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"at most 600 training images .*, got 601"):
        run.train(SIMPLE, data, tmp_path, Recorder(), train_images=601)


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("INPUT(28x28x1) -> FC(10)", r"a square input of depth 3, .* got 28x28x1"),
        ("INPUT(32x64x3) -> FC(10)", r"a square input of depth 3, .* got 32x64x3"),
        ("INPUT(32x32x3) -> FC(9)", "a last layer of 10 class scores, got 9"),
    ],
)
def test_a_network_that_cifar10_cannot_train_is_refused(
    notation: str, message: str, data: Cifar10, tmp_path: Path
) -> None:
    preset = dataclasses.replace(SIMPLE, architecture=parse(notation))
    with pytest.raises(TrainingError, match=message):
        run.train(preset, data, tmp_path, Recorder())
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_no_preset_tells_its_network_itself(data: Cifar10, tmp_path: Path) -> None:
    architecture = parse("INPUT(32x32x3) -> POOL(max, 8x8) -> FC(10)")
    preset = dataclasses.replace(SIMPLE, name="mine", architecture=architecture)
    run.train(preset, data, tmp_path, Recorder(), epochs=1)
    record, network = run.load(tmp_path)
    assert (record.preset, record.architecture) == ("mine", str(architecture))
    assert network.architecture == architecture


def test_another_architecture_in_the_same_directory_is_refused(
    data: Cifar10, tmp_path: Path
) -> None:
    run.train(SIMPLE, data, tmp_path, Recorder(), epochs=1)
    other = dataclasses.replace(SIMPLE, architecture=parse("INPUT(32x32x3) -> FC(10)"))
    with pytest.raises(
        CheckpointMismatchError, match=r"architecture: expected INPUT\(32x32x3\) -> FC"
    ):
        run.train(other, data, tmp_path, Recorder(), epochs=1)


def test_what_is_no_finished_run_is_an_error_that_says_what_to_do(
    data: Cifar10, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"checkpoint\.pt is missing; make one with convscope train"):
        run.load(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.train(SIMPLE, data, tmp_path, Recorder(stop_after=1), epochs=2)
    with pytest.raises(RunError, match="got one after epoch 1 of 2; run the same convscope train"):
        run.load(tmp_path)
    run.train(SIMPLE, data, tmp_path, Recorder(), epochs=2)
    record = json.loads((tmp_path / RECORD_NAME).read_text())
    for changed, message in (
        ({"seed": 1}, "are of different trainings"),
        ({"architecture": "INPUT(1x1x1) -> FC(2)"}, "are of different trainings"),
        ({"format": 2}, "expected a run of format 1, got format 2"),
        ({"unknown": 2}, "expected the record of a run"),
    ):
        (tmp_path / RECORD_NAME).write_text(json.dumps(record | changed))
        with pytest.raises(RunError, match=message):
            run.load(tmp_path)
    (tmp_path / RECORD_NAME).write_text("{")
    with pytest.raises(RunError, match="expected the record of a run"):
        run.load(tmp_path)
