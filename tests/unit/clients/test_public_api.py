"""What `import convscope_client` offers, and what it costs."""

import subprocess
import sys

import pytest

import convscope_client


@pytest.mark.parametrize("name", convscope_client.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(convscope_client, name) is not None


def test_the_table_of_names_is_all_of_them() -> None:
    assert sorted(convscope_client._MODULES) == sorted(convscope_client.__all__)
    assert dir(convscope_client) == sorted(convscope_client.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Klient'"):
        _ = convscope_client.Klient


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("convscope_client", ["grpc", "numpy", "PIL", "google.protobuf", "rich"]),
        ("convscope_client.client", ["PIL", "rich", "torch", "onnx", "onnxruntime"]),
        ("convscope_client.aio", ["PIL", "rich", "torch", "onnx", "onnxruntime"]),
        # A container's health check runs every few seconds.
        ("convscope_client.health", ["numpy", "PIL", "rich"]),
        *(
            (f"convscope_client.cli.{name}", ["grpc", "numpy", "PIL", "rich"])
            for name in ("main", "classify", "features", "describe", "evaluate", "health")
        ),
    ],
)
def test_importing_stays_light(module: str, heavy: list[str]) -> None:
    program = f"import sys, {module}; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []
