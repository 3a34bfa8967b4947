from pathlib import Path
from typing import BinaryIO

import pytest

from convscope_export.atomic_file import FileWriteError, write_atomically, write_bytes, write_text


def test_writes_and_replaces_and_makes_directories(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"one")
    write_text(path, "zwei, größer")
    assert path.read_text(encoding="utf-8") == "zwei, größer"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def half(file: BinaryIO) -> None:
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileWriteError, match=r"cannot write .*model\.onnx: File exists; give"):
        write_bytes(tmp_path / "file" / "model.onnx", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileWriteError, match=r"cannot write .*folder: "):
        write_bytes(tmp_path / "folder", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
