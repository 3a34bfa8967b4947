"""How the clients connect: the address, and the options of a gRPC channel."""

import os

from convscope_client.errors import InvalidRequest

DEFAULT_ADDRESS = "127.0.0.1:8001"
ADDRESS_VARIABLE = "CONVSCOPE_ADDRESS"

# gRPC's default of 4 MB is less than one image's feature maps of a VGG. The
# server has limits of its own and says which; this one only guards memory.
_MAX_MESSAGE_BYTES = 1 << 30
# gRPC backs off for up to two minutes; a server that restarts is back in a second.
_MAX_RECONNECT_BACKOFF_MS = 2_000
_LOOPBACK = ("localhost", "127.", "[::1]", "unix:")


def server_address(address: str | None) -> str:
    """The address given, else that of CONVSCOPE_ADDRESS, else 127.0.0.1:8001.

    Raises:
        InvalidRequest: The address is empty or holds white space.
    """
    if address is None:
        return os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if not address or any(character.isspace() for character in address):
        raise InvalidRequest(f"expected an address such as {DEFAULT_ADDRESS}, got {address!r}")
    return address


def channel_options(address: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to this address."""
    options = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_BACKOFF_MS),
    ]
    if address.startswith(_LOOPBACK):
        # gRPC sends even these through $http_proxy, where they mean another machine.
        options.append(("grpc.enable_http_proxy", 0))
    return options
