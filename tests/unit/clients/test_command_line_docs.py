"""docs/command-line.md tells of every command, option and exit status there is."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import click
import pytest

from convscope_client.exit_codes import ExitCode

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# From the file, not from the installed metadata, which may be older.
COMMANDS: dict[str, str] = PROJECT["entry-points"]["convscope.commands"]
CLIENT_COMMANDS = [name for name, where in COMMANDS.items() if where.startswith("convscope_client")]


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"expected a section '## {title}' in docs/command-line.md"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_section_with_an_example(name: str) -> None:
    assert f"    convscope {name}" in section(f"convscope {name}")


@pytest.mark.parametrize("name", CLIENT_COMMANDS)
def test_every_option_of_the_client_is_told(name: str) -> None:
    module, attribute = COMMANDS[name].split(" ")[0].split(":")
    command: click.Command = getattr(import_module(module), attribute)
    text = section(f"convscope {name}") + section("Options that several commands share")

    assert command.name == name
    assert command.help
    options = {flag for param in command.params for flag in param.opts if flag.startswith("-")}
    assert {flag for flag in options if flag not in text} == set()


def test_no_section_tells_of_a_command_that_is_gone() -> None:
    told = re.findall(r"^## convscope (.*)$", PAGE, re.MULTILINE)

    assert sorted(told) == sorted(COMMANDS)


def test_every_exit_status_is_in_the_table() -> None:
    rows = re.findall(r"^\| (\d+) \|", section("Exit statuses"), re.MULTILINE)

    assert [int(row) for row in rows] == [int(code) for code in ExitCode]
