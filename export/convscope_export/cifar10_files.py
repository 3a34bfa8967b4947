"""The files of the CIFAR-10 binary archive: where they are, and how they get there.

Finds, downloads and unpacks; cifar10.py reads them.
"""

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from convscope_export.atomic_file import FileWriteError
from convscope_export.download import HttpStatusError, UnreachableError, download
from convscope_export.errors import ExportError

# https://www.cs.toronto.edu/~kriz/cifar.html, "CIFAR-10 binary version"; 170,052,171 bytes.
ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_NAME = "cifar-10-binary.tar.gz"
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

FOLDER_NAME = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
FILES = (*TRAIN_FILES, TEST_FILE)

# Each file holds 10,000 records of one label byte and 3 x 32 x 32 pixel bytes.
RECORDS_PER_FILE = 10_000
RECORD_BYTES = 1 + 3 * 32 * 32
FILE_BYTES = RECORDS_PER_FILE * RECORD_BYTES

# What the archive holds beside the six files; not unpacked.
_OTHER_MEMBERS = ("batches.meta.txt", "readme.html")


class MissingDataError(ExportError):
    """A directory without CIFAR-10 in it."""


class ArchiveError(ExportError):
    """An archive that is not the official one: truncated, altered, or another file."""


def default_directory() -> Path:
    """Where CIFAR-10 is kept when no directory is given: `convscope` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification wants relative paths ignored.
    root = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return root / "convscope"


def find_files(
    directory: Path | None,
    *,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    url: str = ARCHIVE_URL,
    sha256: str = ARCHIVE_SHA256,
) -> Path:
    """Folder that holds the six .bin files, unpacked or downloaded if need be.

    Args:
        directory: Holds the six files, or `cifar-10-batches-bin/` with them, or
            `cifar-10-binary.tar.gz`, which is checked and unpacked there. None
            is the cache directory, which is filled by a download.
        on_progress: Told the bytes downloaded so far and the total.
        url: Where the archive is downloaded from.
        sha256: Digest of the archive.

    Raises:
        MissingDataError: The directory holds none of these, or some of the six files.
        ArchiveError: The archive is not the official one.
        DownloadError: The archive could not be downloaded (see download.py).
        FileWriteError: Nothing can be written where the files must go.
    """
    root = default_directory() if directory is None else directory
    for folder in (root, root / FOLDER_NAME):
        present = [name for name in FILES if (folder / name).is_file()]
        if len(present) == len(FILES):
            return folder
        if present:
            missing = next(name for name in FILES if name not in present)
            raise MissingDataError(
                f"{folder}: expected the {len(FILES)} files {FILES[0]} .. {TEST_FILE}, "
                f"{missing} is missing; unpack {ARCHIVE_NAME} again"
            )
    archive = root / ARCHIVE_NAME
    if not archive.is_file():
        if directory is not None:
            raise MissingDataError(
                f"{directory}: expected CIFAR-10's {FILES[0]} .. {TEST_FILE}, {FOLDER_NAME}/ or "
                f"{ARCHIVE_NAME}, got {'none of them' if root.is_dir() else 'no directory'}; "
                f"give the right directory, or none to download"
            )
        try:
            download(url, archive, sha256=sha256, on_progress=on_progress)
        except (UnreachableError, HttpStatusError) as error:
            raise type(error)(f"{error} and give its directory with --data") from error
    else:
        _check_archive(archive, sha256)
    return unpack(archive, root / FOLDER_NAME)


def _check_archive(archive: Path, sha256: str) -> None:
    try:
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArchiveError(
            f"cannot read {archive}: {error.strerror}; check its permissions"
        ) from error
    if digest != sha256:
        raise ArchiveError(
            f"{archive}: expected SHA-256 {sha256}, got {digest} "
            f"({archive.stat().st_size:,} bytes): truncated or another file; "
            "delete it and fetch it again"
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the six .bin files of a CIFAR-10 archive; returns the folder.

    The folder appears in one step with all six files in it, or not at all. No
    path of the archive is ever used to write: each expected member is copied
    to a name of ours, anything else is refused.

    Raises:
        ArchiveError: A member that does not belong there, a missing one, one of
            another size, or an archive that cannot be read to its end.
        FileWriteError: The folder cannot be made.
    """
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise FileWriteError(
            f"cannot unpack {archive.name} in {folder.parent}: {error.strerror}; "
            "unpack it by hand and give its directory"
        ) from error
    try:
        _copy_members(archive, beside)
        beside.chmod(0o755)  # mkdtemp's own is 0700
        beside.replace(folder)
    except OSError as error:
        raise FileWriteError(
            f"cannot unpack {archive.name} in {folder.parent}: {error.strerror}; make room"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def _copy_members(archive: Path, folder: Path) -> None:
    seen: set[str] = set()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isdir() and path == PurePosixPath(FOLDER_NAME):
                    continue
                name = path.name
                expected = path == PurePosixPath(FOLDER_NAME, name) and name not in seen
                if not (expected and member.isfile() and name in (*FILES, *_OTHER_MEMBERS)):
                    raise ArchiveError(
                        f"{archive}: expected only the files of {FOLDER_NAME}/, "
                        f"got the member {member.name!r}; delete it and fetch it again"
                    )
                seen.add(name)
                if name in _OTHER_MEMBERS:
                    continue
                if member.size != FILE_BYTES:
                    raise ArchiveError(
                        f"{archive}: expected {FILE_BYTES:,} bytes of {name}, "
                        f"got {member.size:,}; delete it and fetch it again"
                    )
                source = tar.extractfile(member)
                assert source is not None, "a regular file has contents. This is a bug."  # noqa: S101
                with source, (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(
            f"{archive}: expected a gzipped tar archive, got one that breaks off or is damaged "
            f"({error}); delete it and fetch it again"
        ) from error
    missing = [name for name in FILES if name not in seen]
    if missing:
        raise ArchiveError(
            f"{archive}: expected {len(FILES)} files, {missing[0]} is missing; "
            "delete it and fetch it again"
        )
