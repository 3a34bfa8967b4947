"""What a servicer sees of a call, whatever transport carries it.

A servicer takes and gives messages as bytes. A cancelled call cancels the task
that the servicer runs in, so no servicer has to ask.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC.

    Attributes:
        method: Full name, such as "/convscope.v1.Classifier/Classify".
        metadata: The caller's headers, names in lower case; the last of equal names.
        deadline_s: When the caller stops waiting, in time.monotonic() seconds;
            None if it waits for ever.
        peer: The caller's address as the transport writes it; for logs only.
    """

    method: str
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    deadline_s: float | None = None
    peer: str = ""


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
