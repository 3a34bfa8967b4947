"""What `convscope describe` shows of an architecture that nobody serves.

The command is the client's; it finds these functions by the entry-point group
convscope.describe. They need only the base install.
"""

import json

import click
from rich.console import Console

from convscope_export import architecture_page
from convscope_export.architecture import Architecture
from convscope_export.description import describe
from convscope_export.errors import ExportError
from convscope_export.notation import parse
from convscope_export.presets import PRESETS


def notation(text: str, *, as_json: bool) -> None:
    """Describe an architecture in ConvNet notation; raises click.ClickException."""
    try:
        architecture = parse(text)
    except ExportError as error:
        raise click.ClickException(str(error)) from error
    _show(architecture, as_json=as_json)


def preset(name: str, *, as_json: bool) -> None:
    """Describe a preset's architecture; raises click.ClickException."""
    found = PRESETS.get(name)
    if found is None:
        raise click.ClickException(f"expected a preset, {', '.join(PRESETS)}, got {name}")
    _show(found.architecture, found.name, found.description, as_json=as_json)


def _show(
    architecture: Architecture, name: str = "", description: str = "", *, as_json: bool
) -> None:
    if as_json:
        named = {"preset": name, "description": description} if name else {}
        click.echo(json.dumps({**named, **describe(architecture)}, ensure_ascii=False, indent=2))
    else:
        architecture_page.show(architecture, Console(highlight=False), name, description)
