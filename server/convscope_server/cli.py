"""convscope serve: flags and environment to a ServerConfig, errors to exit codes."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from convscope_server.config_file import config_text, read_config_file


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    if path is not None:
        names = [parameter.name or "" for parameter in context.command.params]
        context.default_map = read_config_file(path, names)


@click.command(
    context_settings={
        "auto_envvar_prefix": "CONVSCOPE",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    }
)
@click.argument(
    "models", type=click.Path(path_type=Path), required=False, envvar="CONVSCOPE_MODELS"
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_read_config,
    is_eager=True,
    expose_value=False,
    help="TOML file of settings: max_batch_size = 32. Flags and environment win over it.",
)
@click.option(
    "--default-model",
    default="",
    show_default="the only one; without MODELS, cifar10",
    help="Answers requests that name no model.",
)
@click.option(
    "--model-control",
    type=click.Choice(["none", "explicit", "poll"]),
    default="none",
    help="Who loads models after the start: nobody, callers, or the server when MODELS changes.",
)
@click.option(
    "--load-model",
    multiple=True,
    help="With --model-control explicit, a model to load at the start; * for all. Repeatable.",
)
@click.option(
    "--poll-interval-s", default=15.0, help="With --model-control poll, time between two looks."
)
@click.option(
    "--version-policy",
    default="latest:1",
    help="Versions served where a model's config.pbtxt does not say: latest:N, all, specific:V,V.",
)
@click.option(
    "--exit-on-error/--no-exit-on-error",
    default=True,
    help="Do not start when a model fails to load; or start without it.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    help="Where models run; one that is not there is an error, never the other.",
)
@click.option("--host", default="127.0.0.1", help="Address to listen on for gRPC.")
@click.option("--port", default=8001, help="Port for gRPC; 0 takes a free one.")
@click.option("--metrics-host", default="127.0.0.1", help="Address to listen on for HTTP.")
@click.option(
    "--metrics-port", default=8002, help="Port for /metrics, /healthz, /readyz; 0 takes a free one."
)
@click.option("--max-batch-size", default=64, help="Most images computed at once.")
@click.option("--max-queue-rows", default=4096, help="Most images that wait for a model.")
@click.option(
    "--max-queue-bytes", default=256 << 20, help="Most bytes of images that wait for a model."
)
@click.option(
    "--max-queue-delay-ms",
    default=0.0,
    help="How long a batch that is not full waits for more images.",
)
@click.option(
    "--max-concurrent-calls",
    default=10_000,
    help="Most calls answered at a time; more are refused.",
)
@click.option(
    "--max-concurrent-streams",
    default=10_000,
    help="Most calls at a time on one connection; more wait at the client.",
)
@click.option(
    "--max-message-bytes", default=64 << 20, help="Largest message, either way; feature maps too."
)
@click.option(
    "--keepalive-time-s", default=60.0, help="A connection that is idle is tried after this long."
)
@click.option(
    "--keepalive-timeout-s", default=20.0, help="And closed if that is not answered in time."
)
@click.option(
    "--max-in-flight-bytes",
    default=2 << 30,
    help="Memory that all requests together may need at a time; more is refused.",
)
@click.option(
    "--max-picture-pixels", default=50_000_000, help="Largest picture file decoded, in pixels."
)
@click.option(
    "--thread-count", default=0, help="Threads of one batch; 0: the processors there are for us."
)
@click.option(
    "--workers",
    default=1,
    help="Processes that share the port. For models quicker than gRPC's own work; Linux only.",
)
@click.option(
    "--shared-memory",
    type=click.Choice(["local", "any", "off"]),
    default="local",
    help="Who may pass tensors in shared memory: callers on this machine, all, nobody.",
)
@click.option(
    "--settings-control",
    type=click.Choice(["local", "any", "off"]),
    default="local",
    help="Who may change what is logged and traced by calls: callers on this machine, all, nobody.",
)
@click.option(
    "--trace-file",
    type=click.Path(path_type=Path, dir_okay=False, resolve_path=True),
    help="JSON file for traces of requests; the call TraceSetting turns them on.",
)
@click.option(
    "--grace-period-s",
    default=2.0,
    help="After SIGTERM, health says NOT_SERVING this long before calls are refused.",
)
@click.option(
    "--drain-timeout-s", default=30.0, help="After that, how long calls in flight may take."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    help="Least severe log lines to write.",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "envoy", "grpcio"]),
    default="auto",
    help="What carries gRPC; auto is envoy where pyvoy is installed and there is one worker.",
)
@click.option(
    "--tls-certificate", type=click.Path(path_type=Path), help="PEM file, with its chain."
)
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM file of its private key.")
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    help="PEM file; clients must show a certificate that it signed.",
)
@click.option(
    "--print-envoy-config", is_flag=True, help="Print what Envoy would be started with, and exit."
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the settings as a file for --config, each with where it is from, and exit.",
)
@click.pass_context
def serve(
    context: click.Context,
    /,
    models: Path | None,
    log_level: str,
    print_config: bool,
    print_envoy_config: bool,
    **settings: Any,
) -> None:
    """Serve MODELS over gRPC until SIGTERM or Ctrl-C.

    MODELS is a folder with NAME/VERSION/model.onnx and, if need be,
    NAME/config.pbtxt as Triton reads it, or one .onnx file; without
    it, the models that come with convscope are served. Everything can also be
    set by the environment: MODELS by CONVSCOPE_MODELS, --max-batch-size by
    CONVSCOPE_MAX_BATCH_SIZE; or by a file, see --config.
    """
    if print_config:
        click.echo(config_text(context), nl=False)
        return

    # As process 1 of a container, signals without a handler are lost, and what follows
    # takes some tenths of a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    # gRPC's core writes lines of its own to standard error, such as one for a taken
    # port beside ours; it reads this when it is first imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    # Here, not above: --help works without the server's packages.
    from convscope_server import serving
    from convscope_server.config import SHIPPED_DEFAULT_MODEL, ServerConfig, shipped_models
    from convscope_server.errors import ServerError
    from convscope_server.log import configure_logging

    configure_logging(log_level)
    if models is None:
        models = shipped_models()
        settings["default_model"] = settings["default_model"] or SHIPPED_DEFAULT_MODEL
    try:
        config = ServerConfig(models=models, **settings)
        if print_envoy_config:
            click.echo(serving.envoy_config_text(config))
        else:
            context.exit(serving.serve(config, log_level))
    except ServerError as error:
        raise click.ClickException(str(error)) from error
