"""What a servicer sees of a call, whatever transport carries it.

A servicer takes and gives messages as bytes. A cancelled call cancels the task
that the servicer runs in, so no servicer has to ask.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC.

    Attributes:
        method: Full name, such as "/convscope.v1.Classifier/Classify".
        metadata: The caller's headers, names in lower case; the last of equal names.
        deadline_s: When the caller stops waiting, in time.monotonic() seconds;
            None if it waits for ever.
        peer: The caller's address as gRPC writes it: ipv4:HOST:PORT, ipv6:[HOST]:PORT, unix:PATH.
    """

    method: str
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    deadline_s: float | None = None
    peer: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the caller is on this machine, by its address."""
        return is_local(self.peer)


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one message each way.

    Attributes:
        handle: What answers it.
        unlimited: Answered however many calls there are: a probe that fails under
            load would have the server restarted when it is needed most.
    """

    handle: Callable[[bytes, Call], Awaitable[bytes]]
    unlimited: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """A method with any number of messages either way.

    Attributes:
        handle: What answers it.
        grpc_type: What metrics call it: "bidi_stream", or "server_stream" if the caller
            sends one message.
        drains: Whether a server that stops waits for it: it ends by itself soon after
            the server began to drain.
    """

    handle: Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]
    grpc_type: str = "bidi_stream"
    drains: bool = False


# Full method names to what answers them.
Methods = Mapping[str, Unary | Stream]


def is_local(peer: str) -> bool:
    """Whether a caller's address, as gRPC writes it, is one of this machine."""
    scheme, _, address = unquote(peer).partition(":")
    if scheme == "unix":
        return True
    try:
        host = ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    mapped = host.ipv4_mapped if isinstance(host, IPv6Address) else None
    return (mapped or host).is_loopback
