"""Files that are either whole or not there."""

from pathlib import Path
from typing import BinaryIO

import pytest

from convscope_client.atomic_file import write_atomically


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "maps.png"

    def write(file: BinaryIO) -> None:
        file.write(b"first half")
        assert not path.exists()
        file.write(b", second half")

    write_atomically(path, write)

    assert path.read_bytes() == b"first half, second half"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "maps.png"
    path.write_bytes(b"before")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_atomically(path, write)

    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        write_atomically(tmp_path / "nowhere" / "maps.png", lambda file: file.write(b""))
