"""The model repository on disk: a folder of models, or one .onnx file."""

import re
from pathlib import Path

from convscope_server.errors import RepositoryUnreadable
from convscope_server.model_folder import (
    ModelFolder,
    is_model_folder,
    read_model_file,
    read_model_folder,
)
from convscope_server.version_policy import VersionPolicy

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


class RepositoryFolder:
    """Lists and reads models; holds nothing of what it read. Its calls wait for the disk."""

    def __init__(self, path: Path, default_policy: VersionPolicy) -> None:
        """Look at what is there now; a file stays a file.

        Args:
            path: A folder with NAME/VERSION/model.onnx, or one .onnx file, which is
                served as version 1 of a model named like the file.
            default_policy: Which versions to serve where a config.pbtxt does not say.

        Raises:
            RepositoryUnreadable: There is no such file or folder.
        """
        self._path = path
        self._default_policy = default_policy
        self._is_file = path.is_file()
        if not self._is_file and not path.is_dir():
            raise RepositoryUnreadable(
                f"expected a folder of models or an .onnx file, found nothing at {path}"
            )

    def names(self) -> list[str]:
        """The models that are there, in the order of their names.

        Raises:
            RepositoryUnreadable: The folder is gone or cannot be listed.
        """
        if self._is_file:
            return [self._path.stem]
        try:
            entries = sorted(self._path.iterdir())
        except OSError as error:
            raise RepositoryUnreadable(
                f"the model repository cannot be read: {error.strerror}"
            ) from error
        return [
            entry.name
            for entry in entries
            if _NAME.fullmatch(entry.name) and is_model_folder(entry)
        ]

    def read(self, name: str) -> ModelFolder:
        """What a model's folder holds now; a problem if it is gone."""
        if self._is_file:
            return read_model_file(self._path, name)
        return read_model_folder(self._path, name, self._default_policy)

    def scan(self) -> dict[str, ModelFolder]:
        """Every model that is there, by name.

        Raises:
            RepositoryUnreadable: The folder is gone or cannot be listed.
        """
        if self._is_file:
            folder = self.read(self._path.stem)
            if folder.problem:
                raise RepositoryUnreadable(f"the model repository cannot be read: {folder.problem}")
            return {folder.name: folder}
        return {name: self.read(name) for name in self.names()}
