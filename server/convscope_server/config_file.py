"""Settings in a TOML file: read for `convscope serve --config`, written by --print-config.

Knows the names of the command's options and nothing of what they mean.
"""

import difflib
import json
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

# Settings about the file itself, or of one run.
_NOT_IN_FILE = {"config", "print_config", "print_envoy_config"}
_SOURCES = {
    click.core.ParameterSource.COMMANDLINE: "command line",
    click.core.ParameterSource.ENVIRONMENT: "environment",
    click.core.ParameterSource.DEFAULT_MAP: "file",
}


def read_config_file(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The settings in a file, by the names of the options without the dashes.

    Args:
        path: A TOML file of `name = value` lines, such as `max_batch_size = 32`.
        names: The settings there are.

    Raises:
        click.UsageError: The file cannot be read, is no TOML, or holds an unknown setting.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--config {path}: expected TOML: {error}") from error
    known = sorted(set(names) - _NOT_IN_FILE)
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or [", ".join(known)]
            raise click.UsageError(
                f"--config {path}: unknown setting {name!r}: expected one such as {near[0]}"
            )
    return settings


def config_text(context: click.Context) -> str:
    """What a command would run with, as such a file; what is not a default says where from."""
    return "\n".join(_lines(context.command.params, context.params, context)) + "\n"


def _lines(
    parameters: Iterable[click.Parameter], values: Mapping[str, Any], context: click.Context
) -> Iterable[str]:
    for parameter in parameters:
        name = parameter.name or ""
        if name in _NOT_IN_FILE or name not in values:
            continue
        source = context.get_parameter_source(name)
        text = _toml(values[name])
        # TOML has no null: a setting without a value is left to its default.
        line = f"# {name} =" if text is None else f"{name} = {text}"
        yield f"{line}  # {_SOURCES[source]}" if source in _SOURCES else line


def _toml(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) or "" for item in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    # A JSON string is a TOML basic string, once nothing but ASCII is left in it.
    return json.dumps(str(value))
