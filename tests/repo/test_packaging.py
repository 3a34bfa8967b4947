"""What `pip install convscope` brings, and what it does not."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"convscope_proto", "convscope_server", "convscope_export", "convscope_client"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_four_packages_the_contract_and_the_models(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert "convscope_proto/v1/classifier.proto" in names
    for model in ("cifar10", "simple"):
        assert f"convscope_server/models/{model}/1/model.onnx" in names
    for package in PACKAGES:
        assert f"{package}/py.typed" in names


def test_the_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 8 << 20


@pytest.fixture(scope="module")
def base_install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the base install only; returns its bin folder."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    constraints = ROOT / "constraints.txt"
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "-c", str(constraints), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "bin"


def run(base: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": str(base)}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(base / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
        cwd=base,
    )


def test_the_base_install_is_the_client_and_nothing_heavy(base_install: Path) -> None:
    absent = ("torch", "onnx", "onnxruntime", "prometheus_client", "server", "proto", "tests")
    script = (
        "import importlib.util as u, convscope_client;"
        f"print([name for name in {absent!r} if u.find_spec(name)])"
    )
    result = run(base_install, "python", "-c", script)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_every_command_shows_its_help_without_any_extra(base_install: Path) -> None:
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    result = run(base_install, "convscope", "--help")
    assert result.returncode == 0, result.stderr
    for command in entry_points["convscope.commands"]:
        assert f"\n  {command} " in result.stdout
        assert run(base_install, "convscope", command, "--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (["serve"], "server"),
        (["train", "simple"], "export,server"),
        (["export", "runs/simple"], "export,server"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_command_that_brings_it(
    base_install: Path, arguments: list[str], extras: str
) -> None:
    result = run(base_install, "convscope", *arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f'pip install "convscope[{extras}]"' in line


def test_the_base_install_describes_an_architecture(base_install: Path) -> None:
    result = run(base_install, "convscope", "describe", "INPUT(8x8x3) -> POOL(l2, 2x2) -> FC(5)")
    assert result.returncode == 0, result.stderr
    (fc,) = (line for line in result.stdout.splitlines() if line.startswith("fc1"))
    assert fc.split() == ["fc1", "1×1×5", "240", "5", "240", "20", "B"]
    assert run(base_install, "convscope", "describe", "--preset", "vgg16").returncode == 0
