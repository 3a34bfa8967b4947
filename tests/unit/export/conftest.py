from pathlib import Path

import pytest
from support.tiny_cifar import write_layout


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the six files of CIFAR-10's binary layout; read only, please."""
    return write_layout(tmp_path_factory.mktemp("cifar") / "cifar-10-batches-bin")
