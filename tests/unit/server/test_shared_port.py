"""A port that workers share and nobody else gets, with real sockets."""

import socket

import pytest

from convscope_server.errors import StartupError
from convscope_server.shared_port import shared_port

HOST = "127.0.0.1"


def listener(port: int, *, shares: bool) -> socket.socket:
    """What gRPC does to listen, alone or with others."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def test_workers_share_it() -> None:
    with (
        shared_port(HOST, 0) as port,
        listener(port, shares=True) as one,
        listener(port, shares=True) as other,
    ):
        assert one.getsockname() == other.getsockname() == (HOST, port)


@pytest.mark.parametrize("workers_listen", [False, True])
def test_nobody_else_gets_it(workers_listen: bool) -> None:
    with shared_port(HOST, 0) as port:
        worker = listener(port, shares=True) if workers_listen else None
        with (
            pytest.raises(StartupError, match="taken or not this machine's"),
            shared_port(HOST, port),
        ):
            pass
        with pytest.raises(OSError, match="in use"):
            listener(port, shares=False)
        if worker:
            worker.close()


@pytest.mark.parametrize("shares", [False, True])
def test_one_that_another_server_holds_is_refused(shares: bool) -> None:
    with listener(0, shares=shares) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match=f"{HOST}:{port}"), shared_port(HOST, port):
            pass


def test_connections_that_fade_out_do_not_keep_it() -> None:
    with (
        shared_port(HOST, 0) as port,
        listener(port, shares=True) as worker,
        socket.create_connection((HOST, port)) as client,
    ):
        accepted, _ = worker.accept()
        accepted.close()  # the server closes first: its side is in TIME_WAIT
        assert client.recv(1) == b""
    with shared_port(HOST, port) as again:
        assert again == port


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StartupError, match=r"192\.0\.2\.1"), shared_port("192.0.2.1", 0):
        pass
