"""Serves with the transport that was asked for, until it is told to stop."""

import asyncio
import json

from convscope_server import envoy_launcher
from convscope_server.config import ServerConfig
from convscope_server.errors import StartupError


def serve(config: ServerConfig, log_level: str) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal stops at once.

    Returns the exit status.

    Raises:
        StartupError: The server could not start.
        ProcessDied: Its process ended by itself.
    """
    if config.workers > 1:
        return asyncio.run(_supervise(config, log_level))
    if transport_of(config) == "envoy":
        envoy_launcher.run(config, log_level)
    else:
        asyncio.run(_serve_grpcio(config))
    return 0


def transport_of(config: ServerConfig) -> str:
    """The transport that these settings mean here: "envoy" or "grpcio"."""
    if config.transport == "auto":
        return "grpcio" if config.workers > 1 or envoy_launcher.why_not() else "envoy"
    return config.transport


def envoy_config_text(config: ServerConfig) -> str:
    """Envoy's configuration as JSON, which is YAML too.

    Raises:
        StartupError: Envoy cannot run here.
    """
    if reason := envoy_launcher.why_not():
        raise StartupError(reason)
    return json.dumps(envoy_launcher.configuration(config, "admin.sock"), indent=2)


async def _supervise(config: ServerConfig, log_level: str) -> int:
    # Here, not above: none of these needs what the others import.
    from convscope_server.supervisor import Supervisor

    return await Supervisor(config, log_level).run()


async def _serve_grpcio(config: ServerConfig) -> None:
    from convscope_server.app import Server
    from convscope_server.transports.grpcio import GrpcioTransport

    server = Server(config, GrpcioTransport)
    server.take_signals()
    await server.run()
