import dataclasses
import json
from pathlib import Path

import onnx
import pytest
from support.tiny_cifar import FULL, Recorder, tiny_data

from convscope_export import metadata as metadata_props
from convscope_export import model_file, run
from convscope_export.atomic_file import FileWriteError
from convscope_export.metadata import MetadataError
from convscope_export.model_card import card
from convscope_export.model_file import ModelFileError
from convscope_export.notation import parse
from convscope_export.presets import SIMPLE, Preset
from convscope_export.verification import VerificationError


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    run.train(SIMPLE, tiny_data(), directory, Recorder(), epochs=1)
    return directory


@pytest.fixture(scope="module")
def verified(directory: Path) -> model_file.Verified:
    return model_file.build(directory)


def test_the_file_holds_its_own_verification(verified: model_file.Verified) -> None:
    model = onnx.load_model_from_string(verified.contents)
    assert metadata_props.read(model) == json.loads(json.dumps(verified.metadata))
    differences = verified.metadata["verification"]["max_abs_diff"]
    assert list(differences) == ["scores", "probabilities", "conv1", "relu1", "pool1"]


def test_what_a_full_recipe_trained_is_exported_as_plain_layers(tmp_path: Path) -> None:
    """Batch normalisation and averaging leave no trace but in the recipe that is told."""
    architecture = parse(
        "INPUT(32x32x3) -> [CONV(16, 3x3) -> RELU -> POOL(max, 4x4)]*2 "
        "-> POOL(average, global) -> FC(10)"
    )
    preset = Preset("full", "Everything on", architecture, FULL)
    run.train(preset, tiny_data(), tmp_path, Recorder(), epochs=1, train_images=200)
    verified = model_file.build(tmp_path)
    model = onnx.load_model_from_string(verified.contents)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    names = [layer.name for layer in architecture.layers]
    compared = [comparison.tensor for comparison in verified.comparisons]
    assert compared == ["scores", "probabilities", *names[:-1]]
    assert verified.metadata["architecture"] == str(architecture)
    assert verified.metadata["recipe"] == {**dataclasses.asdict(FULL), "epochs": 1}


def test_the_card_lies_where_it_writes_over_no_other(tmp_path: Path) -> None:
    assert model_file.card_path(Path("models/simple/1/model.onnx")) == Path(
        "models/simple/README.md"
    )
    assert model_file.card_path(Path("model.onnx")) == Path("model.md")
    assert model_file.card_path(Path("out/tiny.onnx")) == Path("out/tiny.md")


def test_writes_model_and_card_and_nothing_else(
    verified: model_file.Verified, tmp_path: Path
) -> None:
    path = tmp_path / "models" / "simple" / "1" / "model.onnx"
    card = model_file.write(verified, path)
    assert path.read_bytes() == verified.contents
    assert card.read_text(encoding="utf-8").startswith("# simple\n")
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["models/simple/1/model.onnx", "models/simple/README.md"]


def test_a_place_that_cannot_be_written_leaves_nothing(
    verified: model_file.Verified, tmp_path: Path
) -> None:
    (tmp_path / "simple").write_bytes(b"in the way")
    with pytest.raises(FileWriteError, match="cannot write"):
        model_file.write(verified, tmp_path / "simple" / "1" / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["simple"]


def test_checks_a_file_against_its_run(
    verified: model_file.Verified, directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(verified.contents)
    assert model_file.check(path, directory).comparisons == verified.comparisons

    other = tmp_path / "other"
    run.train(SIMPLE, tiny_data(), other, Recorder(), seed=1, epochs=1)
    with pytest.raises(VerificationError, match="scores: expected a difference of at most"):
        model_file.check(path, other)


def test_a_file_of_another_architecture_does_not_fit_the_run(
    verified: model_file.Verified, directory: Path, tmp_path: Path
) -> None:
    model = onnx.load_model_from_string(verified.contents)
    metadata_props.attach(model, {**verified.metadata, "architecture": "INPUT(1x1x1) -> FC(2)"})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"expected the model of .*, got INPUT\(1x1x1\)"):
        model_file.check(path, directory)


def test_a_file_that_is_no_model_is_an_error(verified: model_file.Verified, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelFileError, match="cannot be read: No such file"):
        model_file.check(path)
    path.write_bytes(b"this is no protobuf at all")
    with pytest.raises(ModelFileError, match="got 26 bytes of something else"):
        model_file.check(path)
    path.write_bytes(verified.contents[: len(verified.contents) // 2])
    with pytest.raises(ModelFileError, match="of something else"):
        model_file.check(path)
    path.write_bytes(b"")
    with pytest.raises(MetadataError, match="export the model again"):
        model_file.check(path)


UNTRAINED = "INPUT(8x8x3) -> CONV(4, 3x3) -> RELU -> POOL(distance, 2x2) -> FC(3)"


def test_the_same_seed_makes_the_same_untrained_file() -> None:
    first, again, other = (
        model_file.build_untrained(parse(UNTRAINED), "mine", seed) for seed in (1, 1, 2)
    )
    assert first.contents == again.contents
    assert first.contents != other.contents


def test_an_untrained_model_says_so_everywhere(tmp_path: Path) -> None:
    verified = model_file.build_untrained(parse(UNTRAINED), "mine", seed=5)
    metadata = verified.metadata
    assert set(metadata) == set(metadata_props.KEYS)
    assert metadata["description"] == "Untrained: random weights, its answers mean nothing"
    assert metadata["labels"] == ["0", "1", "2"]
    assert metadata["training"] is metadata["recipe"] is metadata["accuracy"]["top1"] is None
    assert metadata["training_data"]["name"] == "nothing: random weights"
    assert metadata["seed"] == 5
    path = tmp_path / "mine" / "1" / "model.onnx"
    text = model_file.write(verified, path).read_text(encoding="utf-8")
    assert "| top-1 accuracy | none: untrained |" in text
    assert "**The weights are random: this model's answers mean nothing.**" in text
    assert f"convscope export '{UNTRAINED}' --name mine --seed 5 -o" in text
    assert "convscope train" not in text
    assert model_file.check(path).metadata == json.loads(json.dumps(metadata))


def test_a_card_names_the_preset_where_it_is_one() -> None:
    verified = model_file.build_untrained(SIMPLE.architecture, "simple")
    assert "\nconvscope export --preset simple -o models/simple/1/" in card(verified.metadata, 1)
    renamed = model_file.build_untrained(SIMPLE.architecture, "other")
    assert "\nconvscope export --preset simple --name other -o" in card(renamed.metadata, 1)


def test_a_grey_input_is_exported_too() -> None:
    verified = model_file.build_untrained(parse("INPUT(8x8x1) -> FC(3)"), "grey")
    assert verified.metadata["input"]["color"] == "gray"
    assert verified.metadata["normalization"] == {"mean": [0.5], "std": [0.5]}
