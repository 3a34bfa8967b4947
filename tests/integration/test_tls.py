"""TLS and mutual TLS over each transport, with certificates made here."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from support.servers import TRANSPORTS
from support.wire_methods import wire_server

from convscope_server.config import ServerConfig
from convscope_server.errors import StartupError


@dataclass(frozen=True)
class Authority:
    """A certificate authority and what it signs, as PEM files in a folder."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.pem"

    def create(self) -> "Authority":
        self._openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", "/CN=test authority", "-days", "2"),
            *("-keyout", "ca.key", "-out", "ca.pem"),
        )
        return self

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate for localhost and its key."""
        self._openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        extension = self.folder / f"{name}.ext"
        extension.write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", extension.name, "-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority")).create()


def echo(address: str, credentials: grpc.ChannelCredentials | None) -> bytes:
    channel = (
        grpc.insecure_channel(address)
        if credentials is None
        else grpc.secure_channel(address, credentials)
    )
    with channel:
        call: Callable[..., bytes] = channel.unary_unary("/test.Wire/Echo")
        return call(b"secret", timeout=10)


def refused(address: str, credentials: grpc.ChannelCredentials | None) -> bool:
    with pytest.raises(grpc.RpcError) as info:
        echo(address, credentials)
    assert isinstance(info.value, grpc.Call)
    return info.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tls_takes_clients_that_trust_it_and_no_plain_ones(
    transport: str, authority: Authority
) -> None:
    certificate, key = authority.sign("server")
    trusting = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    with wire_server(transport, tls_certificate=certificate, tls_key=key) as (address, _):
        assert echo(address, trusting) == b"secret"
        assert refused(address, None)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_mutual_tls_takes_only_clients_that_its_authority_signed(
    transport: str, authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.sign("server")
    root = authority.certificate.read_bytes()

    def credentials(signer: Authority) -> grpc.ChannelCredentials:
        client_certificate, client_key = signer.sign("client")
        return grpc.ssl_channel_credentials(
            root, client_key.read_bytes(), client_certificate.read_bytes()
        )

    with wire_server(
        transport, tls_certificate=certificate, tls_key=key, tls_client_ca=authority.certificate
    ) as (address, _):
        assert echo(address, credentials(authority)) == b"secret"
        assert refused(address, grpc.ssl_channel_credentials(root))
        assert refused(address, credentials(Authority(tmp_path).create()))


def test_half_a_configuration_is_refused_in_one_line(authority: Authority) -> None:
    certificate, key = authority.sign("server")
    with pytest.raises(StartupError, match="--tls-certificate and --tls-key together"):
        ServerConfig(models=Path(), tls_certificate=certificate)
    with pytest.raises(StartupError, match="with --tls-client-ca"):
        ServerConfig(models=Path(), tls_client_ca=certificate)
    with pytest.raises(StartupError, match="expected --tls-key to be a PEM file, found none"):
        ServerConfig(models=Path(), tls_certificate=certificate, tls_key=key.with_suffix(".no"))
