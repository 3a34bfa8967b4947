"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from convscope_client.channels import DEFAULT_ADDRESS

_Command = TypeVar("_Command", bound=Callable[..., Any])

# Every option can also be set by the environment: --top-k by CONVSCOPE_TOP_K.
SETTINGS: dict[str, Any] = {
    "auto_envvar_prefix": "CONVSCOPE",
    "help_option_names": ["-h", "--help"],
    "show_default": True,
}

# A week: gRPC takes far longer ones for already over.
_LONGEST_TIMEOUT_S = 604_800

address_option = click.option(
    "--address",
    default=DEFAULT_ADDRESS,
    metavar="HOST:PORT",
    show_envvar=True,
    help="Where the server listens for gRPC.",
)
json_option = click.option(
    "--json", "as_json", envvar="CONVSCOPE_JSON", is_flag=True, help="Print JSON, for programs."
)
model_option = click.option(
    "--model",
    default="",
    show_default=False,
    metavar="NAME",
    help="Which model; without it, the server's default.",
)
model_version_option = click.option(
    "--model-version",
    default="",
    show_default=False,
    metavar="VERSION",
    help="Which of its versions; without it, the server chooses.",
)


def timeout_option(default_s: float = 10.0) -> Callable[[_Command], _Command]:
    """--timeout-s, the deadline of each call in seconds."""
    return click.option(
        "--timeout-s",
        default=default_s,
        type=click.FloatRange(min=0, min_open=True, max=_LONGEST_TIMEOUT_S),
        metavar="SECONDS",
        help="Deadline of each call.",
    )
