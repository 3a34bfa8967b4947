"""Which code, and which versions of what, made something."""

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_DISTRIBUTIONS = (
    *("convscope", "torch", "onnx", "onnxscript"),
    *("onnxruntime", "onnxruntime-gpu", "numpy"),
)


def versions() -> dict[str, str]:
    """Versions of Python and of every package that has a say in the result."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # One onnxruntime or the other is there; convscope itself may run uninstalled.
            continue
    return found


def git_revision(folder: Path = _PACKAGE) -> str | None:
    """Commit of the checkout that holds this code, `-dirty` if the code was changed since.

    None outside a checkout: also where the code merely lies inside somebody else's, as
    in a virtual environment, or where nothing is committed.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        # Without optional locks: asking must not disturb a git command beside us.
        command = [git, "--no-optional-locks", "-C", str(folder), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed arguments
        return answer.stdout.strip() if answer.returncode == 0 else None

    if not ask("ls-files", "--", "."):
        return None
    revision = ask("rev-parse", "--verify", "HEAD")
    if revision is None:
        return None
    # Only the code counts: an export rewrites models that may be committed too.
    return f"{revision}-dirty" if ask("status", "--porcelain", "--", ".") else revision
