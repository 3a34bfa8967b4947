import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from convscope_export import cifar10_files
from convscope_export.atomic_file import FileWriteError
from convscope_export.cifar10_files import (
    ARCHIVE_NAME,
    FILE_BYTES,
    FILES,
    FOLDER_NAME,
    ArchiveError,
    MissingDataError,
    default_directory,
    find_files,
    unpack,
)
from convscope_export.download import UnreachableError


def linked(layout: Path, folder: Path, names: tuple[str, ...] = FILES) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).symlink_to(layout / name)
    return folder


def archive(path: Path, change: Callable[[dict[str, tarfile.TarInfo]], None] | None = None) -> str:
    """Write an archive of the right shape, all zeros, with members changed; returns its digest."""
    members = {FOLDER_NAME: tarfile.TarInfo(FOLDER_NAME)}
    members[FOLDER_NAME].type = tarfile.DIRTYPE
    for name in ("batches.meta.txt", *FILES):
        members[name] = tarfile.TarInfo(f"{FOLDER_NAME}/{name}")
        members[name].size = FILE_BYTES if name in FILES else 61
    if change:
        change(members)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for member in members.values():
            tar.addfile(member, io.BytesIO(bytes(member.size)) if member.size else None)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def whole_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / ARCHIVE_NAME
    archive(path)
    return path


def test_finds_the_files_themselves_and_their_folder(layout: Path, tmp_path: Path) -> None:
    direct = linked(layout, tmp_path / "direct")
    assert find_files(direct) == direct
    linked(layout, tmp_path / "above" / FOLDER_NAME)
    assert find_files(tmp_path / "above") == tmp_path / "above" / FOLDER_NAME


def test_a_missing_file_is_named(layout: Path, tmp_path: Path) -> None:
    folder = linked(layout, tmp_path / "data", tuple(set(FILES) - {"data_batch_3.bin"}))
    with pytest.raises(MissingDataError, match=r"data_batch_3\.bin is missing; unpack"):
        find_files(folder)


def test_an_empty_and_an_absent_directory_are_errors_not_downloads(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="got none of them; give the right directory"):
        find_files(tmp_path)
    with pytest.raises(MissingDataError, match="got no directory"):
        find_files(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "convscope"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_directory() == tmp_path / "home" / ".cache" / "convscope"


def test_without_a_directory_the_cache_is_used_before_the_network(
    layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UnreachableError, match="another way and give its directory with --data"):
        find_files(None, url="http://127.0.0.1:9/")
    folder = linked(layout, tmp_path / "convscope" / FOLDER_NAME)
    assert find_files(None, url="http://127.0.0.1:9/") == folder


def test_an_archive_is_checked_and_unpacked_once(whole_archive: Path, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE_NAME).symlink_to(whole_archive)
    digest = hashlib.sha256(whole_archive.read_bytes()).hexdigest()
    folder = find_files(tmp_path, sha256=digest)
    assert folder == tmp_path / FOLDER_NAME
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert {path.stat().st_size for path in folder.iterdir()} == {FILE_BYTES}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ARCHIVE_NAME, FOLDER_NAME])
    # The second time the digest does not matter any more.
    assert find_files(tmp_path, sha256="0" * 64) == folder


def test_an_archive_with_another_digest_is_not_unpacked(
    whole_archive: Path, tmp_path: Path
) -> None:
    (tmp_path / ARCHIVE_NAME).symlink_to(whole_archive)
    with pytest.raises(
        ArchiveError, match=r"expected SHA-256 c4a38c50.*, got [0-9a-f]{64} .*bytes"
    ):
        find_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE_NAME]


def test_a_truncated_archive_leaves_no_folder(whole_archive: Path, tmp_path: Path) -> None:
    contents = whole_archive.read_bytes()
    (tmp_path / ARCHIVE_NAME).write_bytes(contents[: len(contents) // 2])
    with pytest.raises(ArchiveError, match="breaks off or is damaged"):
        unpack(tmp_path / ARCHIVE_NAME, tmp_path / FOLDER_NAME)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE_NAME]


@pytest.mark.parametrize("contents", [b"", b"no gzip at all", gzip.compress(b"no tar at all" * 99)])
def test_what_is_no_archive_is_an_error(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / ARCHIVE_NAME).write_bytes(contents)
    with pytest.raises(ArchiveError):
        unpack(tmp_path / ARCHIVE_NAME, tmp_path / FOLDER_NAME)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE_NAME]


def rename(old: str, new: str) -> Callable[[dict[str, tarfile.TarInfo]], None]:
    def change(members: dict[str, tarfile.TarInfo]) -> None:
        members[old].name = new

    return change


def test_members_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    def link(members: dict[str, tarfile.TarInfo]) -> None:
        members[FILES[0]].type = tarfile.SYMTYPE
        members[FILES[0]].linkname = "/etc/passwd"
        members[FILES[0]].size = 0

    def extra(members: dict[str, tarfile.TarInfo]) -> None:
        members["extra"] = tarfile.TarInfo(f"{FOLDER_NAME}/extra.bin")

    inside = tmp_path / "inside"
    inside.mkdir()
    for change, member in (
        (rename(FILES[0], f"../{FILES[0]}"), rf"\.\./{FILES[0]}"),
        (rename(FILES[0], f"{FOLDER_NAME}/../../{FILES[0]}"), r"\.\./\.\./"),
        (rename(FILES[0], f"/{FOLDER_NAME}/{FILES[0]}"), f"'/{FOLDER_NAME}"),
        (rename(FILES[1], f"{FOLDER_NAME}/{FILES[0]}"), FILES[0]),
        (link, FILES[0]),
        (extra, r"extra\.bin"),
    ):
        archive(inside / ARCHIVE_NAME, change)
        with pytest.raises(ArchiveError, match=rf"got the member .*{member}"):
            unpack(inside / ARCHIVE_NAME, inside / FOLDER_NAME)
        assert [path.name for path in inside.iterdir()] == [ARCHIVE_NAME]
        assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_a_member_that_is_missing_or_of_another_size_is_named(tmp_path: Path) -> None:
    def short(members: dict[str, tarfile.TarInfo]) -> None:
        members[FILES[0]].size = 100

    def missing(members: dict[str, tarfile.TarInfo]) -> None:
        del members[FILES[5]]

    archive(tmp_path / ARCHIVE_NAME, short)
    with pytest.raises(ArchiveError, match=rf"expected 30,730,000 bytes of {FILES[0]}, got 100"):
        unpack(tmp_path / ARCHIVE_NAME, tmp_path / FOLDER_NAME)
    archive(tmp_path / ARCHIVE_NAME, missing)
    with pytest.raises(ArchiveError, match=f"{FILES[5]} is missing"):
        unpack(tmp_path / ARCHIVE_NAME, tmp_path / FOLDER_NAME)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE_NAME]


def test_a_place_where_nothing_can_be_unpacked_is_an_error(
    whole_archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileWriteError, match="cannot unpack"):
        unpack(whole_archive, tmp_path / "absent" / FOLDER_NAME)
    (tmp_path / FOLDER_NAME).write_bytes(b"a file in the way")
    with pytest.raises(FileWriteError, match="cannot unpack"):
        unpack(whole_archive, tmp_path / FOLDER_NAME)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER_NAME]


def test_the_official_archive_is_the_default() -> None:
    assert cifar10_files.ARCHIVE_URL.startswith("https://www.cs.toronto.edu/~kriz/")
