import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convscope_export.cli.export import export
from convscope_export.cli.train import train
from convscope_export.cli.verify import verify
from convscope_export.presets import PRESETS


def invoke(*arguments: str, **environment: str) -> Result:
    commands = {"train": train, "export": export, "verify": verify}
    command, *rest = arguments
    # No colours and no folding: the words are what is tested.
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", **environment}).invoke(
        commands[command], rest, prog_name=f"convscope {command}"
    )


@pytest.mark.parametrize("command", ["train", "export", "verify"])
def test_help_needs_only_the_base_install(command: str) -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'onnxruntime'): sys.modules[name] = None\n"
        f"from convscope_export.cli.{command} import {command}\n"
        f"{command}(['--help'])\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert "Usage:" in answer.stdout


@pytest.mark.parametrize(
    ("command", "arguments"), [("train", ["simple"]), ("export", ["runs"]), ("verify", ["x.onnx"])]
)
def test_a_missing_extra_is_told_by_its_module(command: str, arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        f"from convscope_export.cli.{command} import {command}\n"
        "try:\n"
        f"    {command}({arguments!r}, standalone_mode=False)\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout == "torch\n"


def test_help_names_every_option() -> None:
    text = invoke("train", "-h").output
    for option in ("--data", "--output", "--epochs", "--train-images", "--seed", "--device"):
        assert option in text
    assert "CONVSCOPE_DATA" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "complicated"),
        ("train", "simple", "--name", "../elsewhere"),
        ("train", "simple", "--name", ""),
        ("train", "simple", "--epochs", "0"),
        ("train", "simple", "--device", "tpu"),
        ("train", "simple", "--seed", "-1"),
        ("export",),
        ("export", "runs/simple", "--preset", "simple"),
        ("export", "runs/simple", "--name", "other"),
        ("export", "--preset", "complicated"),
        ("verify",),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(arguments: tuple[str, ...]) -> None:
    answer = invoke(*arguments)
    assert answer.exit_code == 2
    assert "Traceback" not in answer.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "simple", "--data", "{}/absent"), "expected CIFAR-10's data_batch_1.bin"),
        (("export", "{}/absent"), "expected a training run, checkpoint.pt is missing"),
        (("verify", "{}/absent.onnx"), "expected an ONNX model, got a file that cannot be read"),
    ],
    ids=["train", "export", "verify"],
)
def test_what_is_wrong_is_one_line_and_exits_with_1(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    answer = invoke(*(argument.format(tmp_path) for argument in arguments))
    assert answer.exit_code == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_the_data_directory_comes_from_the_environment_too(tmp_path: Path) -> None:
    answer = invoke("train", "simple", CONVSCOPE_DATA=str(tmp_path / "from-environment"))
    assert answer.exit_code == 1
    assert "from-environment: expected CIFAR-10's" in answer.stderr


def test_help_and_usage_name_the_presets() -> None:
    assert "simple, stack, stack-28, vgg16" in invoke("train", "complicated").stderr
    assert "notation that starts with INPUT" in invoke("train", "complicated").stderr
    for name in PRESETS:
        assert name in invoke("export", "--help").output
        assert name in invoke("train", "--help").output


@pytest.mark.parametrize("command", ["train", "export"])
def test_wrong_notation_is_told_with_its_place_without_torch(command: str) -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'numpy'): sys.modules[name] = None\n"
        f"from convscope_export.cli.{command} import {command}\n"
        f"{command}(['INPUT(32x32x3) -> FC(0)'])\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.returncode == 1
    assert answer.stderr == (
        "Error: FC(0): outputs must be at least 1, not 0\n"
        "  INPUT(32x32x3) -> FC(0)\n"
        "                    ^^^^^\n"
    )


def test_an_untrained_model_is_written_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "models" / "mine" / "1" / "model.onnx"
    notation = "INPUT(12x12x3) -> CONV(4, 3x3) -> RELU -> POOL(max, 2x2) -> FC(3)"
    answer = invoke("export", notation, "--name", "mine", "--seed", "3", "-o", str(path))
    assert answer.exit_code == 0, answer.stderr
    assert "It is untrained: its weights are random, its answers mean nothing." in answer.output
    assert "warning: INPUT: 12 is divisible by 2 only twice" in answer.output
    card = (tmp_path / "models" / "mine" / "README.md").read_text(encoding="utf-8")
    assert f"convscope export '{notation}' --name mine --seed 3 -o models/mine/1/model.onnx" in card
    assert invoke("verify", str(path)).exit_code == 0
