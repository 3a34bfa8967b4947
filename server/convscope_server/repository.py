"""Model files on disk, and the models in service.

Layout, as Triton's: <folder>/<name>/<version>/model.onnx, versions whole numbers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from convscope_server.errors import StartupError, UnknownModel, shortened
from convscope_server.served_model import ServedModel

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model file and what it is served as."""

    name: str
    version: str
    path: Path


def find_models(models: Path) -> list[ModelSource]:
    """The latest version of every model in a folder, by name; or the one file given.

    Args:
        models: A folder in the layout above, or one .onnx file, which is served
            as version 1 of a model named like the file.

    Raises:
        StartupError: There is no such file or folder, or no model in it.
    """
    if models.is_file():
        return [ModelSource(models.stem, "1", models)]
    if not models.is_dir():
        raise StartupError(
            f"expected a folder of models or an .onnx file, found nothing at {models}"
        )
    try:
        found = [source for folder in sorted(models.iterdir()) for source in _latest(folder)]
    except OSError as error:
        raise StartupError(f"the folder {models} cannot be read: {error.strerror}") from error
    if not found:
        raise StartupError(
            "expected models as NAME/VERSION/model.onnx, VERSION a whole number, "
            f"found none in {models}"
        )
    return found


def _latest(folder: Path) -> list[ModelSource]:
    """The latest version in a model's folder; none if it is no such folder."""
    versions = {
        int(file.parent.name): file
        for file in folder.glob("*/model.onnx")
        if file.parent.name.isascii() and file.parent.name.isdigit()
    }
    if not versions or not _NAME.fullmatch(folder.name):
        return []
    latest = max(versions)
    return [ModelSource(folder.name, str(latest), versions[latest])]


class Models:
    """The models in service."""

    def __init__(self, default_name: str = "") -> None:
        """Begin with none; default_name answers requests that name no model."""
        self._by_name: dict[str, ServedModel] = {}
        self._default_name = default_name

    def add(self, model: ServedModel) -> None:
        """Put a model into service."""
        self._by_name[model.name] = model

    def all(self) -> Iterable[ServedModel]:
        """Every model, by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    @property
    def default_name(self) -> str:
        """The model that answers requests that name none; empty if there is no such model."""
        if self._default_name or len(self._by_name) != 1:
            return self._default_name
        return next(iter(self._by_name))

    def get(self, name: str, version: str) -> ServedModel:
        """The model of a name, empty for the default, and version, empty for the latest.

        Raises:
            UnknownModel: There is none.
        """
        wanted = name or self.default_name
        names = shortened(sorted(self._by_name))
        if not wanted:
            raise UnknownModel(
                f"the server has no default model: expected the name of one of {names}"
            )
        model = self._by_name.get(wanted)
        if model is None:
            raise UnknownModel(f"unknown model {wanted[:100]!r}: expected one of {names}")
        if version not in ("", model.version):
            raise UnknownModel(
                f"unknown version {version[:100]!r} of model {wanted!r}: expected {model.version}"
            )
        return model
