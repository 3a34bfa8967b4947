"""convscope serve: flags and environment to a ServerConfig, errors to exit codes."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import click


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
@click.option("--default-model", default="", help="Answers requests that name no model.")
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
    "--max-message-bytes", default=64 << 20, help="Largest message, either way; feature maps too."
)
@click.option(
    "--max-picture-pixels", default=50_000_000, help="Largest picture file decoded, in pixels."
)
@click.option(
    "--thread-count", default=0, help="Threads of one batch; 0: the processors there are for us."
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
    help="What carries gRPC; auto is envoy where pyvoy is installed.",
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
    "--print-envoy-config", is_flag=True, help="Show what Envoy would be started with, and end."
)
def serve(models: Path | None, log_level: str, print_envoy_config: bool, **settings: Any) -> None:
    """Serve MODELS over gRPC until SIGTERM or Ctrl-C.

    MODELS is a folder with NAME/VERSION/model.onnx, or one .onnx file; without
    it, the models that come with convscope are served. Everything can also be
    set by the environment: MODELS by CONVSCOPE_MODELS, --max-batch-size by
    CONVSCOPE_MAX_BATCH_SIZE.
    """
    # As process 1 of a container, signals without a handler are lost, and what follows
    # takes some tenths of a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    # gRPC's core writes lines of its own to standard error, such as one for a taken
    # port beside ours; it reads this when it is first imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    # Here, not above: --help works without the server's packages.
    from convscope_server import serving
    from convscope_server.config import ServerConfig, shipped_models
    from convscope_server.errors import ServerError
    from convscope_server.log import configure_logging

    configure_logging(log_level)
    try:
        config = ServerConfig(models=models or shipped_models(), **settings)
        if print_envoy_config:
            click.echo(serving.envoy_config_text(config))
        else:
            serving.serve(config, log_level)
    except ServerError as error:
        raise click.ClickException(str(error)) from error
