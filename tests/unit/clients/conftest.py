from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from unit.clients.fake_classifier import FakeClassifier, serving, solid


@pytest.fixture
def fake() -> FakeClassifier:
    """The server behind the fixture address."""
    return FakeClassifier()


@pytest.fixture
def address(fake: FakeClassifier, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the fake server listens; the command line and the clients find it by themselves."""
    with serving(fake) as where:
        monkeypatch.setenv("CONVSCOPE_ADDRESS", where)
        yield where


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """PNG files that the fake server takes for a bird, a dog and a ship."""
    paths = [tmp_path / f"{name}.png" for name in ("bird", "dog", "ship")]
    for path, index in zip(paths, (2, 5, 8), strict=True):
        Image.fromarray(solid(index)).save(path)
    return paths
