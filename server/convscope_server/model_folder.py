"""One model's folder on disk: which versions it offers, and what its config.pbtxt says.

Layout, as Triton's: NAME/VERSION/model.onnx, versions whole numbers; beside the
versions config.pbtxt and a file of labels, both optional.
"""

import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from convscope_server.errors import ModelError
from convscope_server.model_config import ModelConfig, parse_model_config
from convscope_server.model_settings import ModelSettings
from convscope_server.version_policy import VersionPolicy

CONFIG = "config.pbtxt"
# As Triton: no leading zero; as many digits as fit in its int64.
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
# Far above any configuration or list of labels.
_MAX_TEXT_BYTES = 1 << 20


class FileStamp(NamedTuple):
    """Tells a file from what was, or will be, in its place: any write changes it."""

    size_bytes: int
    modified_ns: int
    # A copy that keeps size and modification time still has these of its own.
    changed_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model file, what it is served as and with; equal sources need no reload."""

    name: str
    version: str
    path: Path
    stamp: FileStamp
    settings: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a model's folder holds.

    Attributes:
        name: The model's name.
        sources: The versions to serve, lowest first; none if there is a problem.
        problem: Why none can be served; one line without a path of this machine.
        ignored: What its config.pbtxt sets and this server does not obey.
    """

    name: str
    sources: tuple[ModelSource, ...] = ()
    problem: str = ""
    ignored: tuple[str, ...] = ()


def is_model_folder(folder: Path) -> bool:
    """Whether a folder is meant to hold a model: it has a version or a config.pbtxt."""
    try:
        return folder.is_dir() and any(
            entry.name == CONFIG or _VERSION.fullmatch(entry.name) for entry in folder.iterdir()
        )
    except OSError:
        return True  # the one who reads it will say what is wrong


def read_model_folder(root: Path, name: str, default_policy: VersionPolicy) -> ModelFolder:
    """What root/name holds; whatever is wrong with it becomes the problem.

    Args:
        root: The repository; nothing outside it is read, not by a symlink either.
        name: The model's folder in it.
        default_policy: Which versions to serve where config.pbtxt does not say.
    """
    try:
        return _Reader(root, name).read(default_policy)
    except ModelError as error:
        return ModelFolder(name, problem=str(error))
    except OSError as error:
        return ModelFolder(name, problem=f"its folder cannot be read: {error.strerror}")


def read_model_file(path: Path, name: str) -> ModelFolder:
    """One file as a model of one version, 1."""
    try:
        return ModelFolder(name, (ModelSource(name, "1", path, stamp(path)),))
    except OSError as error:
        return ModelFolder(name, problem=f"{path.name}: cannot be read: {error.strerror}")


def stamp(path: Path) -> FileStamp:
    """A file's stamp.

    Raises:
        OSError: There is no such file.
    """
    found = path.stat()
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class _Reader:
    def __init__(self, root: Path, name: str) -> None:
        self._root = root.resolve(strict=True)
        self._name = name
        self._folder = root / name

    def read(self, default_policy: VersionPolicy) -> ModelFolder:
        config = self._config()
        files = {
            int(entry.name): entry / config.model_filename
            for entry in self._inside(self._folder).iterdir()
            if _VERSION.fullmatch(entry.name) and (entry / config.model_filename).exists()
        }
        if not files:
            raise ModelError(f"expected VERSION/{config.model_filename} in its folder, found none")
        versions = (config.version_policy or default_policy).choose(files)
        if not versions:
            present = ", ".join(map(str, sorted(files)))
            raise ModelError(f"its version policy allows none of its versions, {present}")
        settings = config.settings
        sources = []
        for version in versions:
            path = self._inside(files[version])
            if not stat.S_ISREG(path.stat().st_mode):
                raise ModelError(f"{version}/{path.name}: expected a file")
            sources.append(ModelSource(self._name, str(version), path, stamp(path), settings))
        return ModelFolder(self._name, tuple(sources), ignored=config.ignored)

    def _config(self) -> ModelConfig:
        path = self._folder / CONFIG
        if not path.exists():
            return ModelConfig()
        config = parse_model_config(self._text(path), self._name)
        if Path(config.model_filename).name != config.model_filename:
            raise ModelError(
                f"config.pbtxt: expected a file's name as default_model_filename, "
                f"got {config.model_filename!r}"
            )
        if not config.label_filename:
            return config
        labels = self._text(self._folder / config.label_filename).splitlines()
        settings = replace(config.settings, labels=tuple(filter(None, map(str.strip, labels))))
        return replace(config, settings=settings)

    def _text(self, path: Path) -> str:
        """A small text file of the folder."""
        shown = path.relative_to(self._folder)
        try:
            path = self._inside(path)
            size_bytes = path.stat().st_size
            if not stat.S_ISREG(path.stat().st_mode) or size_bytes > _MAX_TEXT_BYTES:
                raise ModelError(f"{shown}: expected a file of at most {_MAX_TEXT_BYTES} bytes")
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(f"{shown}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise ModelError(f"{shown}: expected text in UTF-8") from None

    def _inside(self, path: Path) -> Path:
        """The path without symlinks.

        Raises:
            ModelError: It leads out of the repository.
        """
        real = path.resolve(strict=True)
        if not real.is_relative_to(self._root):
            raise ModelError(
                f"{path.name} leads out of the repository folder: put the file itself there"
            )
        return real
