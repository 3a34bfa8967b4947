"""The model files and cards that come with convscope."""

from pathlib import Path

import pytest

from convscope_export import model_file
from convscope_export.layers import Conv
from convscope_export.model_card import card
from convscope_export.notation import parse
from convscope_export.presets import PRESETS

MODELS = Path(__file__).parents[2] / "models"
NAMES = ["cifar10", "simple"]


def test_these_are_all() -> None:
    assert sorted(path.name for path in MODELS.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_what_it_says_and_the_card_says_the_same(name: str) -> None:
    path = MODELS / name / "1" / "model.onnx"
    metadata = model_file.check(path).metadata
    assert metadata["name"] == name
    assert metadata["architecture"] == str(PRESETS[name].architecture)
    assert metadata["training_data"]["train_images"] == 45_000
    assert metadata["accuracy"]["images"] == 10_000
    written = (MODELS / name / "README.md").read_text(encoding="utf-8")
    assert written == card(metadata, path.stat().st_size)
    assert f"\nconvscope train {name} --data DIR " in written
    assert path.stat().st_size < 6 << 20


def test_cifar10_is_quick_for_its_accuracy() -> None:
    """Half of airbench94's 118 million multiply-adds, for 0.4 points less than its 89.3 %."""
    metadata = model_file.check(MODELS / "cifar10" / "1" / "model.onnx").metadata
    assert metadata["training_data"]["name"] == "CIFAR-10, JPEG re-encoded"
    assert metadata["accuracy"]["top1"] > 0.885
    assert sum(layer["multiply_adds"] for layer in metadata["layers"]) <= 59_000_000
    layers = [placed.layer for placed in parse(metadata["architecture"]).layers]
    # ONNX Runtime's blocked layout holds 16 channels a block.
    assert all(layer.filters % 16 == 0 for layer in layers if isinstance(layer, Conv))
