import pickle
from pathlib import Path

import pytest
import torch

from convscope_export.atomic_file import FileWriteError
from convscope_export.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointMismatchError,
    load,
)

STATE = Checkpoint(
    fingerprint={"architecture": "INPUT(1x1x1) -> FC(2)", "seed": 3, "recipe": {"epochs": 2}},
    epoch=1,
    weights={"fc1.weight": torch.tensor([[1.0], [2.0]])},
    average={},
    optimizer={"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": []},
    generator=torch.Generator().manual_seed(5).get_state(),
    curve=[{"epoch": 1, "loss": 0.5}],
    seconds=1.5,
)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    STATE.save(path)
    found = load(path, STATE.fingerprint)
    assert found.fingerprint == STATE.fingerprint
    assert (found.epoch, found.curve, found.seconds) == (1, [{"epoch": 1, "loss": 0.5}], 1.5)
    assert torch.equal(found.weights["fc1.weight"], STATE.weights["fc1.weight"])
    assert torch.equal(found.generator, STATE.generator)
    assert found.optimizer["state"][0]["step"] == 4.0
    assert list(path.parent.iterdir()) == [path]


def test_one_of_another_training_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    STATE.save(path)
    wanted = {**STATE.fingerprint, "seed": 4, "data": "abc"}
    with pytest.raises(
        CheckpointMismatchError,
        match=r"another training \(data: expected abc, got None; seed: expected 4, got 3\); give",
    ):
        load(path, wanted)


@pytest.mark.parametrize("contents", [b"", b"not a checkpoint", pickle.dumps({"epoch": 1})])
def test_what_is_no_checkpoint_is_a_one_line_error(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(contents)
    with pytest.raises(
        CheckpointError, match=r"^cannot read the checkpoint [^\n]*: it is damaged[^\n]*$"
    ):
        load(path)


def test_one_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Is a directory; check its permissions"):
        load(tmp_path)


def test_a_truncated_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    STATE.save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="it is damaged, or no checkpoint; delete it"):
        load(path)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "was-run"),)

    path = tmp_path / "checkpoint.pt"
    torch.save({"epoch": Evil()}, path)
    with pytest.raises(CheckpointError, match="damaged"):
        load(path)
    assert not (tmp_path / "was-run").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"a file where the directory must be")
    with pytest.raises(FileWriteError, match="cannot write"):
        STATE.save(tmp_path / "run" / "checkpoint.pt")
