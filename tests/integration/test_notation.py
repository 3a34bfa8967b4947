"""From a line of notation to a server's answer: every pool, every input size."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from support.servers import CONVSCOPE, ServerProcess, server_process
from support.tiny_cifar import write_layout

from convscope_client import Client
from convscope_export import model_file, run
from convscope_export.cifar10 import MEAN, STD
from convscope_export.layers import PoolMethod
from convscope_export.network import Network, he_initialize
from convscope_export.notation import parse
from convscope_export.verification import pictures, torch_reference

METHODS: tuple[str, ...] = get_args(PoolMethod)
SEED = 7

Float32Array = npt.NDArray[np.float32]


def notation(method: str, side: int) -> str:
    block = f"[[CONV(16, 3x3) -> RELU]*1 -> POOL({method}, 2x2)]*2"
    return f"INPUT({side}x{side}x3) -> {block} -> [FC(20) -> RELU]*1 -> FC(10)"


def convscope(*arguments: str | Path, cwd: Path) -> str:
    process = subprocess.run([CONVSCOPE, *arguments], cwd=cwd, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def expected(text: str, images: npt.NDArray[np.uint8]) -> dict[str, Float32Array]:
    """What PyTorch computes with the weights that the export drew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Network(parse(text))
        he_initialize(network)
    return dict(torch_reference(network.eval(), MEAN, STD)(images))


def check_served(address: str, model: str, text: str) -> None:
    """Ask a server for scores and every layer; all must be what PyTorch computes."""
    side = parse(text).input.width
    images = pictures(3, side, side, 3)
    values = expected(text, images)
    with Client(address) as client:
        answer = client.classify(
            images, features="all", model=model, include_scores=True, timeout_s=60
        )
        described = client.describe(model)
    assert answer.scores is not None
    np.testing.assert_allclose(answer.scores, values["scores"], atol=1e-3, rtol=1e-4)
    assert [c.top[0].index for c in answer.classifications] == values["scores"].argmax(1).tolist()
    maps = {found.layer: found.values for found in answer.feature_maps}
    layers = [placed.name for placed in parse(text).layers]
    assert list(maps) == layers
    for name in layers[:-1]:
        np.testing.assert_allclose(maps[name], values[name], atol=1e-3, rtol=1e-4, err_msg=name)
    assert described.accuracy is None
    assert described.training_data == "nothing: random weights"
    assert described.architecture == text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of one model for each pool at 32 and 96 pixels, exported from notation."""
    folder = tmp_path_factory.mktemp("served")
    for method in METHODS:
        for side in (32, 96):
            name = f"{method}-{side}"
            model = model_file.build_untrained(parse(notation(method, side)), name, SEED)
            model_file.write(model, folder / "models" / name / "1" / "model.onnx")
    with server_process(str(folder / "models")) as process:
        yield process


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("method", METHODS)
def test_notation_is_served_as_torch_computes_it(
    server: ServerProcess, method: str, side: int
) -> None:
    check_served(server.address, f"{method}-{side}", notation(method, side))


def test_a_picture_of_any_size_is_classified(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(pictures(1, 150, 200, 3)[0]).save(path)
    with Client(server.address) as client:
        (found,) = client.classify(path, top_k=10, model="l2-96").classifications
    assert sorted(score.label for score in found.top) == [str(index) for index in range(10)]
    assert sum(score.probability for score in found.top) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 224, 384, 512])
@pytest.mark.parametrize("method", METHODS)
def test_every_usual_size_is_served(method: str, side: int, tmp_path: Path) -> None:
    text = notation(method, side)
    convscope("export", text, "--name", "large", "--seed", str(SEED), cwd=tmp_path)
    limits = ("--max-batch-size", "4", "--max-message-bytes", str(1 << 29))
    with server_process(str(tmp_path / "models"), *limits) as process:
        check_served(process.address, "large", text)


@pytest.mark.parametrize("name", ["stack", "vgg16"])
def test_a_preset_is_exported_with_random_weights_and_served(name: str, tmp_path: Path) -> None:
    convscope("export", "--preset", name, cwd=tmp_path)
    with (
        server_process(str(tmp_path / "models"), "--max-batch-size", "4") as process,
        Client(process.address) as client,
    ):
        maps = client.features(pictures(1, 32, 32, 3), "all", model=name, timeout_s=60)
    assert list(maps) == [placed.name for placed in parse(described(name)).layers]
    assert all(np.isfinite(found.values).all() for found in maps.values())


def described(name: str) -> str:
    page = (Path(__file__).parents[2] / "docs" / "notation.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    return line.split("`")[3]


def test_notation_is_trained_resumed_and_exported(tmp_path: Path) -> None:
    data = write_layout(tmp_path / "data")
    text = (
        "INPUT(64x64x3) -> CONV(4, 4x4, stride 4, padding none) -> RELU -> POOL(l2, 4x4) -> FC(10)"
    )
    arguments = ("--name", "mine", "--data", data, "--train-images", "500")
    output = convscope("train", text, *arguments, "--epochs", "1", cwd=tmp_path)
    assert "Next: convscope export runs/mine" in output
    assert "nothing to do" in convscope("train", text, *arguments, "--epochs", "1", cwd=tmp_path)
    convscope("export", "runs/mine", cwd=tmp_path)
    card = (tmp_path / "models/mine/README.md").read_text(encoding="utf-8")
    assert f"convscope train '{text}' --name mine --epochs 1 --train-images 500 --data DIR" in card
    assert run.load(tmp_path / "runs/mine")[0].architecture == text

    other = subprocess.run(
        [CONVSCOPE, "train", text.replace("l2", "max"), *arguments, "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert other.returncode == 1
    (line,) = other.stderr.splitlines()
    assert "is of another training (architecture: expected INPUT(64x64x3)" in line
