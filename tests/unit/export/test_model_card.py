from pathlib import Path
from typing import Any

import pytest
from support.tiny_cifar import Recorder, tiny_data

from convscope_export import cifar10, model_file, run
from convscope_export.model_card import card
from convscope_export.presets import SIMPLE


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("run")
    run.train(SIMPLE, tiny_data(), directory, Recorder(), seed=3, epochs=1)
    return model_file.build(directory).metadata


def test_tells_layers_sizes_and_accuracy(metadata: dict[str, Any]) -> None:
    text = card(metadata, 129_405)
    assert text.startswith("# simple\n")
    assert text.endswith("\n")
    assert str(SIMPLE.architecture) in text
    assert "| `conv1` | CONV(12, 3x3) | 32x32x12 | 324 | 12 | 331,776 |" in text
    assert "| `fc1` | FC(10) | 1x1x10 | 30,720 | 10 | 30,720 |" in text
    assert "| **total** |  |  | **31,044** | **22** | **362,496** |" in text
    assert "129,405 bytes" in text
    assert f"Top-1 **{metadata['accuracy']['top1']:.2%}**" in text
    for label, value in metadata["accuracy"]["per_class"].items():
        assert f"| {label} | {value:.1%} |" in text
    for tensor, difference in metadata["verification"]["max_abs_diff"].items():
        assert f"| `{tensor}` | {difference:.1e} |" in text


def test_gives_the_commands_that_made_it(metadata: dict[str, Any]) -> None:
    text = card(metadata, 1)
    assert (
        "convscope train simple --epochs 1 --train-images 600 --seed 3 --data DIR -o runs/simple\n"
        "convscope export runs/simple -o models/simple/1/model.onnx\n"
        "convscope verify models/simple/1/model.onnx --run runs/simple\n"
    ) in text
    plain = {
        **metadata,
        "seed": 0,
        "recipe": {**metadata["recipe"], "epochs": SIMPLE.recipe.epochs},
        "training_data": {**metadata["training_data"], "train_images": 45_000},
    }
    assert "\nconvscope train simple --data DIR -o runs/simple\n" in card(plain, 1)


def test_tells_the_recipe(metadata: dict[str, Any]) -> None:
    recipe = "epochs 1, batch size 250, learning rate 0.005, warmup 0.1, weight decay 0.0005"
    assert f"Recipe: AdamW; {recipe}, " in card(metadata, 1)
    sgd = {**metadata["recipe"], "optimizer": "sgd", "average": 0.998, "batch_norm": True}
    text = card({**metadata, "recipe": sgd}, 1)
    assert f"Recipe: SGD with a Nesterov momentum of 0.9; {recipe}, " in text
    assert ", batch norm yes, average 0.998, precision float32; seed 3." in text
    training = {**metadata["training"], "threads": 1}
    assert " with 1 thread, Python" in card({**metadata, "training": training}, 1)
    older = {key: value for key, value in sgd.items() if key != "optimizer"}
    assert "Recipe: AdamW; " in card({**metadata, "recipe": older}, 1)


@pytest.mark.parametrize("copy", [cifar10.OFFICIAL, cifar10.JPEG_REENCODED])
def test_says_which_pixels_the_accuracy_is_on(metadata: dict[str, Any], copy: cifar10.Copy) -> None:
    data = {
        **metadata["training_data"],
        **{"name": copy.name, "description": copy.description, "official": copy.official},
    }
    text = card({**metadata, "training_data": data}, 1)
    assert f"**{copy.name}**: {copy.description}." in text
    assert ("not accuracies on the official CIFAR-10 pixels" in text) == (not copy.official)


def test_a_class_without_pictures_has_no_accuracy(metadata: dict[str, Any]) -> None:
    per_class = {**metadata["accuracy"]["per_class"], "cat": None}
    text = card({**metadata, "accuracy": {**metadata["accuracy"], "per_class": per_class}}, 1)
    assert "| cat | - |" in text


def test_names_no_directory_of_the_machine(metadata: dict[str, Any], tmp_path: Path) -> None:
    text = card(metadata, 1)
    assert str(tmp_path.parent) not in text
    assert str(Path.home()) not in text
