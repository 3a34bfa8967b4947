"""What the commands of this package share: options, and what is made of them.

Imports nothing heavy, as the commands' own modules: the help of every command must show
where only the base is installed, so torch, onnx and what imports them are imported inside
the commands.
"""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from convscope_export.errors import ExportError
from convscope_export.notation import is_notation, parse
from convscope_export.presets import DEFAULT_RECIPE, PRESETS, Preset

# Every option also reads CONVSCOPE_<OPTION>.
CONTEXT = {
    "auto_envvar_prefix": "CONVSCOPE",
    "help_option_names": ["-h", "--help"],
    "show_default": True,
}

# What a model is called that is given in notation, and without --name.
_UNNAMED = "convnet"

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


# A folder's name in a model repository, and a model's name on a server.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _checked_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(
            f"expected letters, digits, '.', '_' and '-', such as my-net, got {value!r}"
        )
    return value


name_option = click.option(
    "--name",
    callback=_checked_name,
    help=f"Of the model.  [default: the preset's; {_UNNAMED} for NOTATION]",
)


@contextmanager
def reported() -> Iterator[None]:
    """Turn an expected failure into one line and exit status 1."""
    try:
        yield
    except ExportError as error:
        raise click.ClickException(str(error)) from error


def chosen_preset(text: str, name: str | None) -> Preset:
    """The preset of that name, or the architecture of that notation with the default recipe."""
    if is_notation(text):
        with reported():
            architecture = parse(text)
        chosen = Preset(_UNNAMED, "A ConvNet for CIFAR-10", architecture, DEFAULT_RECIPE)
    elif text in PRESETS:
        chosen = PRESETS[text]
    else:
        raise click.UsageError(
            f"expected a preset ({', '.join(PRESETS)}) or notation that starts with INPUT, "
            f"got {text!r}"
        )
    return dataclasses.replace(chosen, name=name or chosen.name)
