"""What the server asks of a transport."""

from typing import Protocol

from convscope_server.errors import StartupError


class Transport(Protocol):
    """Carries calls from the wire to the dispatcher; made from ServerConfig and Dispatcher."""

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which differs from the one given if that was 0.

        Raises:
            StartupError: The port is taken, or the address is not this machine's.
        """

    async def drain(self) -> None:
        """Send clients elsewhere, as far as the wire can; calls are still carried."""

    async def unsent(self) -> int:
        """How many calls have been answered whose answers have not left yet."""

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those in flight this long, then cancel them."""


def port_taken(address: str) -> StartupError:
    """What a start on a port that is not to be had ends with."""
    return StartupError(
        f"expected to listen for gRPC on {address}, which is taken or not this machine's: "
        "stop what listens there, or choose another with --port"
    )


def address_text(host: str, port: int) -> str:
    """A host and a port as one writes them; IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
