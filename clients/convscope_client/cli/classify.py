"""convscope classify: pictures in, labels with bars or JSON lines out."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from convscope_client.cli.failure import reported
from convscope_client.cli.options import (
    SETTINGS,
    address_option,
    json_option,
    model_option,
    model_version_option,
    timeout_option,
)
from convscope_client.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from convscope_client.client import Client
    from convscope_client.errors import ClientError
    from convscope_client.results import ClassifyResult

# Requests of one picture each: the server batches them, and a picture that
# cannot be read spoils no other's answer.
_IN_FLIGHT = 8


@click.command(context_settings=SETTINGS)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option(
    "--top-k", default=5, type=click.IntRange(min=1), help="How many of the best classes to show."
)
@json_option
@model_option
@model_version_option
@address_option
@timeout_option()
@click.pass_context
def classify(
    context: click.Context,
    pictures: Sequence[str],
    top_k: int,
    as_json: bool,
    model: str,
    model_version: str,
    address: str,
    timeout_s: float,
) -> None:
    """Tell what is in each PICTURE: a JPEG, PNG, WebP, GIF or BMP file of any size.

    With --json, one JSON object a line and picture. A picture that cannot be read
    is told on standard error, the others are classified, and the exit status is 1.
    """
    # Here, not above: --help of every command should cost neither numpy nor gRPC.
    from rich.console import Console

    from convscope_client.client import Client
    from convscope_client.errors import ClientError

    console = Console(highlight=False)
    statuses: set[ExitCode] = set()
    with reported(), Client(address) as client:
        answers = _answers(client, pictures, top_k, model, model_version, timeout_s)
        for picture, answer in answers:
            if isinstance(answer, ClientError):
                statuses.add(answer.exit_code)
                click.echo(f"Error: {picture}: {answer}", err=True)
            if as_json:
                click.echo(_json_line(picture, answer))
            elif not isinstance(answer, ClientError):
                _show(console, picture, answer)
    if statuses:  # what trying again cannot mend counts most
        context.exit(min(statuses))


def _answers(
    client: "Client",
    pictures: Sequence[str],
    top_k: int,
    model: str,
    version: str,
    timeout_s: float,
) -> "Iterator[tuple[str, ClassifyResult | ClientError]]":
    """Each picture's answer, in order; an error that concerns all of them is raised."""
    from convscope_client.cli.together import in_order
    from convscope_client.errors import DeadlineExceeded, InvalidRequest, LimitExceeded

    def answer(picture: str) -> "ClassifyResult | ClientError":
        try:
            return client.classify(
                picture, top_k=top_k, model=model, version=version, timeout_s=timeout_s
            )
        except (DeadlineExceeded, InvalidRequest, LimitExceeded) as error:
            return error

    yield from zip(pictures, in_order(client, answer, pictures, _IN_FLIGHT), strict=True)


def _show(console: "Console", picture: str, result: "ClassifyResult") -> None:
    from rich.text import Text

    from convscope_client.cli.bar_chart import Row, bar_chart

    rows = [
        Row(entry.label, entry.probability, f"{entry.probability:.1%}")
        for entry in result.classifications[0].top
    ]
    timings = result.timings
    console.print(Text(picture, "bold"), overflow="fold")
    console.print(bar_chart(rows, console.width, highlight=True))
    console.print(
        Text(
            f"  {result.model_name} {result.model_version}"
            f" · decode {timings.decode_ns / 1e6:.1f} ms"
            f" · queue {timings.queue_ns / 1e6:.1f} ms"
            f" · compute {timings.compute_ns / 1e6:.1f} ms",
            "dim",
        )
    )
    console.print()


def _json_line(picture: str, answer: "ClassifyResult | ClientError") -> str:
    import json
    from dataclasses import asdict

    from convscope_client.errors import ClientError

    if isinstance(answer, ClientError):
        return json.dumps({"picture": picture, "error": str(answer)}, ensure_ascii=False)
    best = answer.classifications[0]
    return json.dumps(
        {
            "picture": picture,
            "model": answer.model_name,
            "version": answer.model_version,
            "label": best.label,
            "top": [asdict(entry) for entry in best.top],
            "timings": asdict(answer.timings),
        },
        ensure_ascii=False,
    )
