"""CIFAR-10 in the layout of the official binary archive: pixels, labels, and which copy it is."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convscope_export.cifar10_files import (
    FILE_BYTES,
    FILES,
    RECORD_BYTES,
    RECORDS_PER_FILE,
    find_files,
)
from convscope_export.errors import ExportError

# batches.meta.txt of the official archive.
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

# Per-channel statistics (red, green, blue) of the 50,000 official training images, pixels
# scaled to 0-1. Recomputed by tests/unit/export/test_cifar10.py::test_channel_statistics.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

# The last images of the training split are held out: recipes are chosen on them. The test
# split is read once, when a training has ended.
VALIDATION_IMAGES = 5_000

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]


class DataFormatError(ExportError):
    """A .bin file that does not hold 10,000 records with labels 0-9."""


@dataclass(frozen=True)
class Copy:
    """One known copy of CIFAR-10's pixels.

    Attributes:
        name: What to call it beside an accuracy.
        description: How it differs from the official pixels, for people.
        official: Whether these are the official pixels.
        file_sha256: Digest of each file of cifar10_files.FILES; empty for unknown pixels.
    """

    name: str
    description: str
    official: bool
    file_sha256: tuple[str, ...] = ()


# Digests of the files in the official archive (cifar10_files.ARCHIVE_SHA256).
OFFICIAL = Copy(
    name="CIFAR-10",
    description="the official pixels",
    official=True,
    file_sha256=(
        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    ),
)

# A copy for machines that cannot reach the official archive.
JPEG_REENCODED = Copy(
    name="CIFAR-10, JPEG re-encoded",
    description=(
        "all 60,000 images in their original order with their original labels, but not the "
        "official pixels: they were re-encoded as JPEG (quality 75, 4:2:0 chroma; about 30 dB "
        "PSNR against the originals), except for the first 1,017 rows of each training batch "
        "(1,102 of the first), which are exact. An accuracy measured on it is not an accuracy "
        "on the official pixels, and tends to be lower"
    ),
    official=False,
    file_sha256=(
        "857882581f326777d2260645cfc76002d42c3c5e1e80f4cd29e79c6c086cb0fe",
        "bc3c714df5f74d0eccca51e159f86e4079a000b4bded6559e90e468c3e3bd61b",
        "9c3f63d1770bf55848b6e57be7d5a13b65f7a1c7fbf3d11243314050b7843240",
        "7fdd298136e9bc6de891304f315a7f5568b2a61928d9912b0335bb28e1db3319",
        "9891ac8f5d1401a28efd4d35bbb1d128d1bf2c228aab3c8ce974a55b6139bb11",
        "0ce179d0c0a5220739d6223197952896644ceabb648dacfdebd7f06789af543f",
    ),
)


def unrecognised(sha256: str) -> Copy:
    """Copy for pixels whose digests are none of the known ones."""
    return Copy(
        name="CIFAR-10 layout, unrecognised pixels",
        description=(
            f"files in CIFAR-10's layout whose digests are not known (SHA-256 {sha256}): what "
            "an accuracy on them means depends on what they are"
        ),
        official=False,
    )


@dataclass(frozen=True)
class Images:
    """Pictures and what is on them.

    Attributes:
        pixels: uint8, shape (N, 3, 32, 32), RGB, 0-255.
        labels: int64, shape (N,), 0-9, indices into LABELS.
    """

    pixels: UInt8Array
    labels: Int64Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Images":
        """Some of the images; a view."""
        return Images(self.pixels[rows], self.labels[rows])


@dataclass(frozen=True)
class Cifar10:
    """The whole data set.

    Attributes:
        train: The training split, 50,000 images, in the files' order.
        test: The test split, 10,000 images.
        copy: Which copy of the pixels it is.
        sha256: SHA-256 of the six files one after the other, test_batch.bin last.
    """

    train: Images
    test: Images
    copy: Copy
    sha256: str


def load(
    directory: Path | None = None,
    *,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Cifar10:
    """Read CIFAR-10.

    Args:
        directory: See cifar10_files.find_files; None is the cache directory, which is
            filled by a download.
        on_progress: Told the bytes downloaded so far and the total.

    Raises:
        DataFormatError: A file is not 10,000 records of 3,073 bytes with labels 0-9.
        ExportError: The files cannot be had (see cifar10_files.find_files).
    """
    folder = find_files(directory, on_progress=on_progress)
    whole = hashlib.sha256()
    digests: list[str] = []
    parts: list[Images] = []
    for name in FILES:
        contents = _read(folder / name)
        whole.update(contents)
        digests.append(hashlib.sha256(contents).hexdigest())
        parts.append(_parse(folder / name, contents))
    known = [copy for copy in (OFFICIAL, JPEG_REENCODED) if copy.file_sha256 == tuple(digests)]
    return Cifar10(
        train=Images(
            np.concatenate([part.pixels for part in parts[:-1]]),
            np.concatenate([part.labels for part in parts[:-1]]),
        ),
        test=parts[-1],
        copy=known[0] if known else unrecognised(whole.hexdigest()),
        sha256=whole.hexdigest(),
    )


def _read(path: Path) -> bytes:
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise DataFormatError(
            f"cannot read {path}: {error.strerror}; check its permissions, or unpack it again"
        ) from error
    if len(contents) != FILE_BYTES:
        raise DataFormatError(
            f"{path}: expected {FILE_BYTES:,} bytes ({RECORDS_PER_FILE:,} records of "
            f"{RECORD_BYTES:,}), got {len(contents):,}; unpack the archive again"
        )
    return contents


def _parse(path: Path, contents: bytes) -> Images:
    records = np.frombuffer(contents, np.uint8).reshape(RECORDS_PER_FILE, RECORD_BYTES)
    labels = records[:, 0].astype(np.int64)
    wrong = np.flatnonzero(labels >= len(LABELS))
    if wrong.size:
        raise DataFormatError(
            f"{path}: expected labels 0-{len(LABELS) - 1}, got {labels[wrong[0]]} in record "
            f"{wrong[0]}; this is not CIFAR-10's binary version, or a damaged copy"
        )
    # Each record holds the red, green and blue plane, row by row. Copied: without the label
    # bytes between them, and writable, which torch wants.
    return Images(np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32), labels)
