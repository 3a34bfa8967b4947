"""The README's way, with the README's commands: a trained model, a server, pictures, maps."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from support.servers import CONVSCOPE, ServerProcess, server_process
from support.tiny_cifar import write_layout

from convscope_client import Client

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"


def convscope(*arguments: str | Path, cwd: Path, address: str = "") -> str:
    environment = {**os.environ, "CONVSCOPE_ADDRESS": address} if address else None
    process = subprocess.run(
        [CONVSCOPE, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def shipped() -> Iterator[ServerProcess]:
    with server_process() as server:
        yield server


@pytest.mark.parametrize(
    ("model", "right"),
    [
        # Six of nine: a network of 66 % is expected to get six.
        ("simple", {"airplane", "bird", "deer", "horse", "ship", "truck"}),
        ("cifar10", {path.stem for path in SAMPLES.glob("*.jpg")}),
    ],
)
def test_the_shipped_models_give_samples_sensible_labels(
    model: str, right: set[str], shipped: ServerProcess, tmp_path: Path
) -> None:
    """As many as the README says; who names no model gets cifar10."""
    pictures = sorted(SAMPLES.glob("*.jpg"))
    arguments = ("--model", model) if model != "cifar10" else ()
    lines = convscope(
        "classify", "--json", *arguments, *pictures, cwd=tmp_path, address=shipped.address
    )
    answers = {Path(row["picture"]).stem: row for row in map(json.loads, lines.splitlines())}
    assert len(answers) == len(pictures) == 9
    assert {name for name, row in answers.items() if row["label"] == name} == right
    assert answers["horse"]["top"][0]["probability"] > 0.8
    for row in answers.values():
        assert row["top"][0]["label"] == row["label"]
        assert row["model"] == model


def test_the_feature_maps_of_a_sample_are_drawn(shipped: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "maps.png"
    arguments = ("--layers", "conv1,relu1,pool1", "-o", out)
    convscope("features", SAMPLES / "horse.jpg", *arguments, cwd=tmp_path, address=shipped.address)
    with Image.open(out) as page:
        assert page.width == 1400
        colors = page.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colors is not None
    assert len(colors) > 200  # tiles in the colours of the map, not an empty page
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("model", ["cifar10", "simple"])
def test_relu_and_pool_are_what_their_names_say(model: str, shipped: ServerProcess) -> None:
    """On a real network and a real picture: relu1 = max(0, conv1), pool1 = 2x2 maxima of it."""
    with Client(shipped.address) as client:
        maps = client.features(SAMPLES / "cat.jpg", "*1", model=model)
    conv1, relu1, pool1 = (maps[name].values for name in ("conv1", "relu1", "pool1"))
    np.testing.assert_allclose(relu1, np.maximum(conv1, 0), atol=1e-5)
    windows = relu1.reshape(1, -1, 16, 2, 16, 2)
    np.testing.assert_allclose(pool1, windows.max(axis=(3, 5)), atol=1e-5)
    assert conv1.min() < 0 < relu1.max()


def test_the_calls_are_counted(shipped: ServerProcess) -> None:
    def images() -> float:
        with urllib.request.urlopen(f"{shipped.http}/metrics", timeout=10) as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
        (line,) = [
            line
            for line in lines
            if line.startswith("convscope_images_total{") and 'model="cifar10"' in line
        ]
        return float(line.split()[-1])

    before = images()
    with Client(shipped.address) as client:
        client.classify([SAMPLES / "cat.jpg", SAMPLES / "dog.jpg"])
    assert images() == before + 2


@pytest.mark.data
@pytest.mark.skipif("CONVSCOPE_DATA" not in os.environ, reason="CONVSCOPE_DATA is not set")
@pytest.mark.parametrize("model", ["cifar10", "simple"])
def test_the_accuracy_in_the_model_file_is_what_the_server_reaches(
    model: str, shipped: ServerProcess, tmp_path: Path
) -> None:
    (told,) = [
        json.loads(entry.value)
        for entry in onnx.load(ROOT / "models" / model / "1" / "model.onnx").metadata_props
        if entry.key == "convscope.accuracy"
    ]
    arguments = ("--model", model, "--json")
    measured = json.loads(convscope("evaluate", *arguments, cwd=tmp_path, address=shipped.address))
    assert measured["images"] == told["images"] == 10_000
    # Another processor may round a score the other way; two images are 0.0002.
    assert measured["accuracy"] == pytest.approx(told["top1"], abs=0.0005)


def test_from_nothing_to_an_answer(tmp_path: Path) -> None:
    """Train, export, verify, serve and classify, on made-up pictures in CIFAR-10's layout."""
    write_layout(tmp_path / "data" / "cifar-10-batches-bin")
    quick = ("--epochs", "1", "--train-images", "1000", "--data", "data")
    convscope("train", "simple", *quick, cwd=tmp_path)
    convscope("export", "runs/simple", cwd=tmp_path)
    convscope("verify", "models/simple/1/model.onnx", "--run", "runs/simple", cwd=tmp_path)
    with server_process(str(tmp_path / "models")) as server:
        model = json.loads(convscope("describe", "--json", cwd=tmp_path, address=server.address))
        assert [layer["name"] for layer in model["layers"]] == ["conv1", "relu1", "pool1", "fc1"]
        answer = convscope(
            "classify", SAMPLES / "ship.jpg", "--json", cwd=tmp_path, address=server.address
        )
        assert json.loads(answer)["label"] in model["labels"]
        told = convscope(
            "evaluate", "--json", "--data", "data", cwd=tmp_path, address=server.address
        )
        assert json.loads(told)["accuracy"] == pytest.approx(model["accuracy"], abs=0.0005)
