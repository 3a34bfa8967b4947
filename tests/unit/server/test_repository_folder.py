"""What a repository on disk offers."""

import os
from pathlib import Path

import pytest
from support.tiny_models import replace_model, write_repository

from convscope_server.errors import RepositoryUnreadable
from convscope_server.repository_folder import RepositoryFolder
from convscope_server.version_policy import VersionPolicy

LATEST = VersionPolicy()


def versions(folder: Path, name: str, policy: VersionPolicy = LATEST) -> list[str]:
    found = RepositoryFolder(folder, policy).read(name)
    assert not found.problem
    return [source.version for source in found.sources]


def problem(folder: Path, name: str = "tiny") -> str:
    found = RepositoryFolder(folder, LATEST).read(name)
    assert found.problem
    assert not found.sources
    assert str(folder) not in found.problem  # it goes out to callers
    return found.problem


def test_the_latest_version_of_every_model_is_found(tmp_path: Path) -> None:
    for name, version in (("b", "2"), ("b", "10"), ("a", "1"), ("b", "notes"), ("b", "011")):
        write_repository(tmp_path, name, version)
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("not a model")
    assert RepositoryFolder(tmp_path, LATEST).names() == ["a", "b"]
    assert versions(tmp_path, "a") == ["1"]
    assert versions(tmp_path, "b") == ["10"]
    assert versions(tmp_path, "b", VersionPolicy(latest=None)) == ["2", "10"]


def test_config_pbtxt_decides_over_the_flag(tmp_path: Path) -> None:
    for version in "123":
        replace_model(tmp_path, 0, version=version)
    config = tmp_path / "tiny" / "config.pbtxt"
    config.write_text("version_policy { specific { versions: [ 1, 3 ] } }")
    assert versions(tmp_path, "tiny") == ["1", "3"]
    config.write_text("version_policy { specific { versions: [ 7 ] } }")
    assert problem(tmp_path) == "its version policy allows none of its versions, 1, 2, 3"


def test_files_that_config_pbtxt_names(tmp_path: Path) -> None:
    write_repository(tmp_path)
    folder = tmp_path / "tiny"
    (folder / "1" / "model.onnx").rename(folder / "1" / "mine.onnx")
    (folder / "labels.txt").write_text("rot\ngrün\n\nblau\n", encoding="utf-8")
    (folder / "config.pbtxt").write_text(
        'default_model_filename: "mine.onnx" output { label_filename: "labels.txt" }'
    )
    (source,) = RepositoryFolder(tmp_path, LATEST).read("tiny").sources
    assert source.path.name == "mine.onnx"
    assert source.settings.labels == ("rot", "grün", "blau")


def test_what_is_read_twice_unchanged_is_equal_and_any_change_shows(tmp_path: Path) -> None:
    write_repository(tmp_path)
    folder = RepositoryFolder(tmp_path, LATEST)
    path = tmp_path / "tiny" / "1" / "model.onnx"
    before = folder.read("tiny")
    assert folder.read("tiny") == before
    # The same size and modification time, as `cp --preserve` gives: still another file.
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    after = folder.read("tiny")
    assert after != before
    (tmp_path / "tiny" / "config.pbtxt").write_text("max_batch_size: 3")
    assert folder.read("tiny") != after


def test_one_file_is_a_model_named_like_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.touch()
    folder = RepositoryFolder(path, LATEST)
    assert folder.names() == ["mine"]
    (source,) = folder.scan()["mine"].sources
    assert (source.name, source.version, source.path) == ("mine", "1", path)
    path.unlink()
    with pytest.raises(RepositoryUnreadable, match="No such file"):
        folder.scan()


def test_a_repository_that_is_not_there_or_goes_away(tmp_path: Path) -> None:
    with pytest.raises(RepositoryUnreadable, match="found nothing at"):
        RepositoryFolder(tmp_path / "absent", LATEST)
    models = write_repository(tmp_path / "models")
    folder = RepositoryFolder(models, LATEST)
    models.rename(tmp_path / "away")
    with pytest.raises(RepositoryUnreadable, match="cannot be read: No such file") as info:
        folder.scan()
    assert str(tmp_path) not in str(info.value)
    models.write_text("a file where a folder was")
    with pytest.raises(RepositoryUnreadable, match="cannot be read: Not a directory"):
        folder.scan()


@pytest.mark.parametrize("level", ["tiny", "tiny/1", "tiny/1/model.onnx"])
def test_symlinks_that_lead_out_of_the_repository_are_refused(tmp_path: Path, level: str) -> None:
    outside = write_repository(tmp_path / "outside")
    inside = write_repository(tmp_path / "inside")
    link = inside / level
    link.rename(tmp_path / "aside")
    link.symlink_to(outside / level)
    assert "leads out of the repository folder" in problem(inside)


def test_symlinks_within_the_repository_are_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap so: every file a link into a hidden folder beside it."""
    write_repository(tmp_path, "..data")
    (tmp_path / "tiny").symlink_to("..data")
    assert RepositoryFolder(tmp_path, LATEST).names() == ["tiny"]
    assert versions(tmp_path, "tiny") == ["1"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('default_model_filename: "../../x.onnx"', "expected a file's name"),
        ('output { label_filename: "../../labels.txt" }', "leads out of the repository"),
        ('output { label_filename: "none.txt" }', "none.txt: cannot be read: No such file"),
        ('output { label_filename: "1" }', "1: expected a file"),
        ('backend: "python"', "export the model to ONNX"),
    ],
)
def test_what_config_pbtxt_may_not_name(tmp_path: Path, config: str, message: str) -> None:
    models = write_repository(tmp_path / "models")
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue")
    (models / "tiny" / "config.pbtxt").write_text(config)
    assert message in problem(models)


def test_folders_without_a_file_to_load(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "1").mkdir(parents=True)
    assert RepositoryFolder(tmp_path, LATEST).names() == ["tiny"]
    assert problem(tmp_path) == "expected VERSION/model.onnx in its folder, found none"
    os.mkfifo(tmp_path / "tiny" / "1" / "model.onnx")  # opening it would wait for ever
    assert problem(tmp_path) == "1/model.onnx: expected a file"
    (tmp_path / "tiny" / "config.pbtxt").write_bytes(b"\xff\xfe")
    assert problem(tmp_path) == "config.pbtxt: expected text in UTF-8"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("level", ["tiny", "tiny/1"])
def test_a_folder_that_may_not_be_read_is_a_problem_of_its_model(
    tmp_path: Path, level: str
) -> None:
    write_repository(tmp_path)
    (tmp_path / level).chmod(0)
    try:
        assert RepositoryFolder(tmp_path, LATEST).names() == ["tiny"]
        assert problem(tmp_path) == "its folder cannot be read: Permission denied"
    finally:
        (tmp_path / level).chmod(0o700)
