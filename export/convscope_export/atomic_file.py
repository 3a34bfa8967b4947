"""Files that are either whole or absent: written beside their name, then renamed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from convscope_export.errors import ExportError


class FileWriteError(ExportError):
    """The file system refused a file that had to be written."""


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileWriteError(
            f"cannot write {path}: {error.strerror or error}; give another place, or make room"
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace a file in one step.

    Args:
        path: Final name; missing parent directories are made.
        write: Called once with the open binary file, to fill it.

    Raises:
        FileWriteError: A directory or file cannot be made, written or renamed.
            Whatever `write` raises passes through. Either way the final name
            keeps what it held before and nothing is left beside it.
    """
    # The process id keeps two writers of one name from filling one another's file.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                write(file)
                file.flush()
                # Without it a power cut can leave the new name with empty contents.
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, contents: bytes) -> None:
    """Create or replace a file with these bytes, in one step; raises FileWriteError."""
    write_atomically(path, lambda file: file.write(contents))


def write_text(path: Path, contents: str) -> None:
    """Create or replace a UTF-8 text file in one step; raises FileWriteError."""
    write_bytes(path, contents.encode())
