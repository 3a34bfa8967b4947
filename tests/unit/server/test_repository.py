from pathlib import Path

import pytest
from support.tiny_models import write_repository

from convscope_server.errors import StartupError
from convscope_server.repository import find_models


def test_the_latest_version_of_every_model_is_found(tmp_path: Path) -> None:
    for name, version in (("b", "2"), ("b", "10"), ("a", "1"), ("b", "notes")):
        write_repository(tmp_path, name, version)
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    found = [(source.name, source.version) for source in find_models(tmp_path)]
    assert found == [("a", "1"), ("b", "10")]


def test_one_file_is_a_model_named_like_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.touch()
    (source,) = find_models(path)
    assert (source.name, source.version, source.path) == ("mine", "1", path)


def test_a_folder_without_models_and_no_folder_at_all_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"NAME/VERSION/model\.onnx"):
        find_models(tmp_path)
    with pytest.raises(StartupError, match="found nothing at"):
        find_models(tmp_path / "absent")
