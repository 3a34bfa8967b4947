import subprocess
from pathlib import Path

from convscope_export.provenance import git_revision, versions


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_revision_is_none_until_the_code_is_committed(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "module.py").write_text("one = 1\n")
    assert git_revision(code) is None
    git(tmp_path, "init", "-q")
    assert git_revision(code) is None
    git(tmp_path, "add", ".")
    assert git_revision(code) is None
    git(tmp_path, "commit", "-qm", "First")
    assert git_revision(code) == git(tmp_path, "rev-parse", "HEAD")


def test_revision_is_dirty_only_where_the_code_changed(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "module.py").write_text("one = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "First")
    revision = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "model.onnx").write_bytes(b"new")
    assert git_revision(code) == revision
    (code / "module.py").write_text("one = 2\n")
    assert git_revision(code) == f"{revision}-dirty"


def test_code_installed_inside_somebody_elses_checkout_has_no_revision(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("")
    (tmp_path / ".gitignore").write_text("venv\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "Theirs")
    ours = tmp_path / "venv" / "convscope_export"
    ours.mkdir(parents=True)
    (ours / "module.py").write_text("")
    assert git_revision(ours) is None


def test_versions_name_what_has_a_say_in_the_result() -> None:
    assert {"python", "torch", "onnx", "onnxscript", "numpy"} <= set(versions())
