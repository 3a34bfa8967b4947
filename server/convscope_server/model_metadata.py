"""Reads what a model file tells of itself: the convscope.* entries of its metadata_props."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import onnx

from convscope_server.errors import ModelError

T = TypeVar("T")


class ModelMetadata:
    """The metadata of one file, each value of its kind; docs/model-file.md lists them.

    Attributes:
        entries: All of it, untouched.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        """Read the metadata of a model."""
        self.entries = {entry.key: entry.value for entry in proto.metadata_props}

    def text(self, key: str) -> str:
        """A string; empty if the file does not tell.

        Raises:
            ModelError: It is something else. So for the others.
        """
        return self._of_kind(key, str, "", "a string")

    def numbers(self, key: str, member: str, *, count: int) -> tuple[float, ...]:
        """A list of that many numbers, a member of an object; empty if the file does not tell."""
        values = self._object(key).get(member, [])
        good = isinstance(values, list) and len(values) in (0, count)
        if not good or not all(_is_number(value) for value in values):
            raise self._error(key, f"{member} as a list of {count} numbers")
        return tuple(float(value) for value in values)

    def number(self, key: str, member: str) -> float | None:
        """A number, a member of an object."""
        value = self._object(key).get(member)
        if value is not None and not _is_number(value):
            raise self._error(key, f"{member} as a number")
        return None if value is None else float(value)

    def member_text(self, key: str, member: str) -> str:
        """A string, a member of an object."""
        value = self._object(key).get(member, "")
        if not isinstance(value, str):
            raise self._error(key, f"{member} as a string")
        return _well_formed(value)

    def strings(self, key: str) -> list[str]:
        """A list of strings; other kinds of values become strings."""
        values: list[Any] = self._of_kind(key, list, [], "a list")
        return [_well_formed(str(value)) for value in values]

    def objects(self, key: str) -> list[Mapping[str, Any]]:
        """A list of objects."""
        values: list[Any] = self._of_kind(key, list, [], "a list")
        if not all(isinstance(value, dict) for value in values):
            raise self._error(key, "a list of objects")
        return values

    def _object(self, key: str) -> Mapping[str, Any]:
        return self._of_kind(key, dict, {}, "an object")

    def _of_kind(self, key: str, kind: type[T], default: T, name: str) -> T:
        text = self.entries.get(f"convscope.{key}")
        if text is None:
            return default
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise self._error(key, "JSON") from None
        if not isinstance(value, kind):
            raise self._error(key, name)
        return _well_formed(value) if isinstance(value, str) else value  # type: ignore[return-value]

    def _error(self, key: str, expected: str) -> ModelError:
        got = self.entries[f"convscope.{key}"]
        return ModelError(f"metadata convscope.{key}: expected {expected}, got {got[:40]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _well_formed(text: str) -> str:
    """Without lone surrogates, which JSON can hold and the wire cannot."""
    return text.encode(errors="replace").decode()
