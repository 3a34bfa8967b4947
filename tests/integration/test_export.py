"""Training, export and verification by the commands that the model card gives."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.tiny_cifar import write_layout

from convscope_export import cifar10, metadata, run
from convscope_export.cifar10 import UInt8Array
from convscope_export.evaluation import evaluate
from convscope_export.network import normalize
from convscope_export.onnx_runtime import Session
from convscope_export.verification import pictures

CONVSCOPE = Path(sys.executable).with_name("convscope")
MODELS = Path(__file__).parents[2] / "models"


def convscope(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CONVSCOPE, *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_layout(folder / "cifar-10-batches-bin")
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Folder in which the commands of the card were run, one after the other."""
    folder = tmp_path_factory.mktemp("work")
    quick = ("--epochs", "2", "--train-images", "2000")
    for arguments in (
        ("train", "simple", *quick, "--data", data, "-o", "runs/simple"),
        ("export", "runs/simple", "-o", "models/simple/1/model.onnx"),
        ("verify", "models/simple/1/model.onnx", "--run", "runs/simple"),
        ("verify", "models/simple/1/model.onnx"),
    ):
        answer = convscope(*arguments, cwd=folder)
        assert answer.returncode == 0, answer.stderr
        assert answer.stderr == ""
    return folder


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_commands_of_the_card_leave_a_run_a_model_and_a_card(workplace: Path) -> None:
    assert files(workplace) == [
        "models/simple/1/model.onnx",
        "models/simple/README.md",
        "runs/simple/checkpoint.pt",
        "runs/simple/run.json",
    ]
    card = (workplace / "models/simple/README.md").read_text(encoding="utf-8")
    assert "convscope train simple --epochs 2 --train-images 2000 --data DIR" in card
    assert str(workplace) not in card
    contents = (workplace / "models/simple/1/model.onnx").read_bytes()
    assert str(workplace).encode() not in contents


def test_the_model_scores_what_the_trained_network_scores(workplace: Path) -> None:
    record, network = run.load(workplace / "runs/simple")
    images = pictures(5, 32, 32, 3)
    session = Session((workplace / "models/simple/1/model.onnx").read_bytes())
    values = session.run(["scores", "probabilities"], {"images": images})
    with torch.inference_mode():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        scores = network(normalize(pixels, *(record.normalization[k] for k in ("mean", "std"))))
    np.testing.assert_allclose(values["scores"], scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(values["probabilities"], torch.softmax(scores, 1), atol=1e-5)


def test_a_training_that_is_killed_goes_on_to_the_same_weights(
    workplace: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ("train", "simple", "--epochs", "2", "--train-images", "2000", "--data", str(data))
    command = [str(CONVSCOPE), *arguments, "-o", "runs/simple"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        # Its checkpoint is written before an epoch is told of.
        assert any(line.startswith("epoch 1/2") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert files(tmp_path) == ["runs/simple/checkpoint.pt"]

    unfinished = convscope("export", "runs/simple", cwd=tmp_path)
    assert unfinished.returncode == 1
    assert "after epoch 1 of 2; run the same convscope train again" in unfinished.stderr
    assert files(tmp_path) == ["runs/simple/checkpoint.pt"]

    answer = convscope(*arguments, "-o", "runs/simple", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "Going on after epoch 1 of 2." in answer.stdout
    resumed, whole = (run.load(folder / "runs/simple")[1] for folder in (tmp_path, workplace))
    for name, weights in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weights), name


def test_another_training_in_the_same_directory_is_refused(workplace: Path, data: Path) -> None:
    before = (workplace / "runs/simple/checkpoint.pt").read_bytes()
    answer = convscope(
        *("train", "simple", "--seed", "1", "--epochs", "2", "--train-images", "2000"),
        *("--data", data, "-o", "runs/simple"),
        cwd=workplace,
    )
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert "is of another training (seed: expected 1, got 0)" in line
    assert (workplace / "runs/simple/checkpoint.pt").read_bytes() == before


def onnx_scores(
    session: Session, pixels: UInt8Array
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return session.run(["scores"], {"images": pixels.transpose(0, 2, 3, 1)})["scores"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["cifar10", "simple"])
def test_the_shipped_models_are_as_accurate_as_they_say(name: str) -> None:
    directory = os.environ.get("CONVSCOPE_DATA")
    if directory is None:
        pytest.skip("CONVSCOPE_DATA is not set")
    images = cifar10.load(Path(directory))
    path = MODELS / name / "1" / "model.onnx"
    described = metadata.read(onnx.load(path))
    if images.sha256 != described["training_data"]["sha256"]:
        pytest.skip("CONVSCOPE_DATA names another copy of CIFAR-10")
    session = Session(path.read_bytes())
    found = evaluate(lambda pixels: onnx_scores(session, pixels), images.test, cifar10.LABELS)
    # A score in the last bits may move a picture between two classes.
    assert found.top1 == pytest.approx(described["accuracy"]["top1"], abs=5e-4)
