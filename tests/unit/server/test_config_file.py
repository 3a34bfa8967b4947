import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from convscope_server.cli import serve


def run(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(serve, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    printed = run("models", "--print-config", "--max-batch-size", "3", "--host", 'a"\\ü')
    file = tmp_path / "convscope.toml"
    file.write_text(printed, encoding="utf-8")

    again = run("--config", str(file), "--print-config")

    assert tomllib.loads(again) == tomllib.loads(printed)
    assert tomllib.loads(again)["max_batch_size"] == 3
    assert tomllib.loads(again)["models"] == "models"


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path,
) -> None:
    file = tmp_path / "convscope.toml"
    file.write_text("port = 1\nmax_batch_size = 1\nthread_count = 1\n", encoding="utf-8")

    printed = run(
        "--config",
        str(file),
        "--print-config",
        "--max-batch-size",
        "3",
        CONVSCOPE_MAX_BATCH_SIZE="2",
        CONVSCOPE_PORT="2",
    )

    assert "max_batch_size = 3  # command line\n" in printed
    assert "port = 2  # environment\n" in printed
    assert "thread_count = 1  # file\n" in printed
    assert "max_queue_rows = 4096\n" in printed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_batch_sise = 3", "unknown setting 'max_batch_sise': expected one such as max_batch"),
        ("print_config = true", "unknown setting 'print_config'"),
        ("max_batch_size = ", "expected TOML: Invalid value (at"),
        ('max_batch_size = "many"', "'many' is not a valid integer"),
        ("[server]\nport = 1", "unknown setting 'server'"),
        (b"\xff\xfe", "expected TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    file = tmp_path / "convscope.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)

    result = CliRunner().invoke(serve, ["--config", str(file), "--print-config"])

    assert result.exit_code == 2
    assert expected in result.stderr


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(serve, ["--config", str(tmp_path / "none.toml")])

    assert result.exit_code == 2
    assert "none.toml: cannot be read: No such file or directory" in result.stderr
