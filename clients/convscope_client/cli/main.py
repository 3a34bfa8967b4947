"""The convscope command: finds its sub-commands by entry point.

Every package of the distribution registers its own, so this file imports none
of them, and a command whose extra is not installed still shows its help.
"""

import sys
from importlib.metadata import entry_points
from typing import Any

import click

from convscope_client.cli.failure import Failure
from convscope_client.exit_codes import ExitCode

_GROUP = "convscope.commands"
# In the order of the work; a command that is not named here comes last.
_ORDER = (
    "serve",
    "classify",
    "features",
    "describe",
    "evaluate",
    "health",
    "train",
    "export",
    "verify",
)


class _EntryPointGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {entry_point.name for entry_point in entry_points(group=_GROUP)}
        return [name for name in _ORDER if name in names] + sorted(names - set(_ORDER))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry_point in entry_points(group=_GROUP, name=cmd_name):
            command: click.Command = entry_point.load()
            return command
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            name = ctx.invoked_subcommand or ""
            for entry_point in entry_points(group=_GROUP, name=name):
                missing = (error.name or "").partition(".")[0]
                # One of our own modules that is missing is a defect, not a missing extra.
                if entry_point.extras and not missing.startswith("convscope_"):
                    extras = ",".join(entry_point.extras)
                    raise Failure(
                        f"convscope {name} needs the package {missing}, which is not installed: "
                        f'pip install "convscope[{extras}]"',
                        ExitCode.USAGE,
                    ) from error
            raise


@click.group(cls=_EntryPointGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="convscope", prog_name="convscope")
def convscope() -> None:
    """Train, export and serve ConvNets, and look inside them while they serve."""


def main() -> None:
    """Run the command line; ends the process with an ExitCode."""
    try:
        status = convscope.main(prog_name="convscope", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.INTERRUPTED)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise  # whoever reads has gone: nothing to tell
        named = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {named}{error.strerror or error}", err=True)
        sys.exit(ExitCode.REJECTED)
    except UnicodeError as error:
        click.echo(f"Error: expected text that can be written or sent: {error}", err=True)
        sys.exit(ExitCode.REJECTED)
    # Without standalone mode click returns what a command returned, or the status it exited with.
    sys.exit(status if isinstance(status, int) else ExitCode.OK)
