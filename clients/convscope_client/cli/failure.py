"""Errors as the command line shows them: one line, and an exit status for scripts."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from convscope_client.errors import ClientError
from convscope_client.exit_codes import ExitCode


class Failure(click.ClickException):
    """Ends the command with "Error: message" and this status."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        """Keep the line and the status."""
        super().__init__(message)
        # click declares one for the class; here each failure has its own.
        self.exit_code = exit_code  # type: ignore[misc]


@contextmanager
def reported() -> Iterator[None]:
    """Show a ClientError that is raised inside as its one line, with its status."""
    try:
        yield
    except ClientError as error:
        raise Failure(str(error), error.exit_code) from error
