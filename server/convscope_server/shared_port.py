"""A port that several worker processes listen on, and nobody else."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from convscope_server.errors import StartupError


@contextmanager
def shared_port(host: str, port: int) -> Iterator[int]:
    """Hold a port, on which this user's processes may listen with SO_REUSEPORT.

    Args:
        host: Address or name of this machine.
        port: 0 takes a free one.

    Yields:
        The port; it is held until the end, even while no worker listens.

    Raises:
        StartupError: Somebody else has the port, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        holder = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _not_ours(host, port) from error
    with holder:
        # Connections of an earlier server that fade out in TIME_WAIT do no harm.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(address)
        except OSError as error:
            raise _not_ours(host, port) from error
        # Only now: bound with SO_REUSEPORT, it would join a port that another server of
        # this user shares. Without SO_REUSEADDR nobody else binds it before workers listen.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield holder.getsockname()[1]


def _not_ours(host: str, port: int) -> StartupError:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return StartupError(
        f"expected to listen for gRPC on {where}, which is taken or not this machine's: "
        "stop what listens there, or choose another with --port"
    )
