"""Serves with the transport that was asked for, until it is told to stop."""

import asyncio
import json
import signal

from convscope_server import envoy_launcher
from convscope_server.config import ServerConfig
from convscope_server.errors import StartupError


def serve(config: ServerConfig, log_level: str) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once.

    Raises:
        StartupError: The server could not start.
        ProcessDied: Its process ended by itself.
    """
    if transport_of(config) == "envoy":
        envoy_launcher.run(config, log_level)
    else:
        asyncio.run(_serve_grpcio(config))


def transport_of(config: ServerConfig) -> str:
    """The transport that these settings mean here: "envoy" or "grpcio"."""
    if config.transport == "auto":
        return "grpcio" if envoy_launcher.why_not() else "envoy"
    return config.transport


def envoy_config_text(config: ServerConfig) -> str:
    """Envoy's configuration as JSON, which is YAML too.

    Raises:
        StartupError: Envoy cannot run here.
    """
    if reason := envoy_launcher.why_not():
        raise StartupError(reason)
    return json.dumps(envoy_launcher.configuration(config, "admin.sock"), indent=2)


async def _serve_grpcio(config: ServerConfig) -> None:
    # Here, not above: a launcher of Envoy needs neither models nor gRPC.
    from convscope_server.app import Server
    from convscope_server.transports.grpcio import GrpcioTransport

    server = Server(config, GrpcioTransport)
    loop = asyncio.get_running_loop()
    # Before the models load: a signal then must not kill a half-started server.
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, server.interrupt, signal_number)
    await server.run()
