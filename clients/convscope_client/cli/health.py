"""convscope health: the exit status says whether the server serves."""

import click

from convscope_client.cli.failure import Failure
from convscope_client.cli.options import SETTINGS, address_option, timeout_option
from convscope_client.exit_codes import ExitCode


@click.command(context_settings=SETTINGS)
@click.argument("service", default="", metavar="[MODEL]")
@address_option
@timeout_option(5.0)
def health(service: str, address: str, timeout_s: float) -> None:
    """Ask the server whether it, or one MODEL of it, serves.

    The exit status is 0 if it answers SERVING, and 3 for everything else: another
    answer, none in time, no connection, a model that it does not hold.
    """
    from convscope_client.errors import ClientError
    from convscope_client.health import ServingStatus, check

    try:
        status = check(address, service, timeout_s=timeout_s)
    except ClientError as error:
        raise Failure(str(error), ExitCode.UNAVAILABLE) from error
    if status is not ServingStatus.SERVING:
        raise Failure(f"expected SERVING from {address}, got {status.name}", ExitCode.UNAVAILABLE)
    click.echo(status.name)
