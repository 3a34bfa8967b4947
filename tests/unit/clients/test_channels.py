"""Where the clients connect to."""

import pytest

from convscope_client import Client, InvalidRequest
from convscope_client.channels import channel_options, server_address


def test_an_address_that_is_given_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_ADDRESS", "elsewhere:1")

    assert server_address("here:2") == "here:2"
    assert server_address(None) == "elsewhere:1"


@pytest.mark.parametrize("value", [None, ""])
def test_without_one_it_is_this_machine(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVSCOPE_ADDRESS", raising=False)
    if value is not None:
        monkeypatch.setenv("CONVSCOPE_ADDRESS", value)

    assert server_address(None) == "127.0.0.1:8001"


@pytest.mark.parametrize("address", ["", "a b:1", "host:1\n"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="expected an address such as"):
        Client(address)


@pytest.mark.parametrize(
    ("address", "is_direct"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("[::1]:8001", True),
        ("unix:/tmp/socket", True),
        ("models.example:8001", False),
    ],
)
def test_only_other_machines_are_reached_through_a_proxy(address: str, is_direct: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) in channel_options(address)) == is_direct
