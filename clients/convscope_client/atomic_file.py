"""Files that are either whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, then rename it.

    Args:
        path: Where the file goes; one that is there is replaced in one step.
        write: Writes the content to the file that it is given.

    Raises:
        OSError: The file cannot be written; what was at path is as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # else a crash could leave an empty file under the final name
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
