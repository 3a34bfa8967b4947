import pytest

from convscope_server.config import ServerConfig, shipped_models
from convscope_server.errors import StartupError
from convscope_server.serving import envoy_config_text, transport_of

CONFIG = ServerConfig(models=shipped_models())


def test_auto_is_grpcio_where_pythons_library_may_not_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pyvoy = pytest.importorskip("pyvoy._server", reason="pip install pyvoy brings Envoy")

    def refuse() -> dict[str, str]:
        raise PermissionError(13, "Permission denied", "/root/libpython.so")

    monkeypatch.setattr(pyvoy, "get_envoy_environ", refuse)
    assert transport_of(CONFIG) == "grpcio"
    with pytest.raises(StartupError, match="shared library of Python, got Permission denied"):
        envoy_config_text(CONFIG)


def test_several_workers_take_grpcio() -> None:
    assert transport_of(ServerConfig(models=shipped_models(), workers=2)) == "grpcio"
    assert transport_of(CONFIG) in ("envoy", "grpcio")
