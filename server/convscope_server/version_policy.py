"""Which of a model's versions are served."""

from collections.abc import Iterable
from dataclasses import dataclass

from convscope_server.errors import StartupError


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Triton's version_policy: the latest few, all, or those that are named.

    Attributes:
        latest: How many of the highest versions; None for all.
        specific: These and no others; empty for no such wish, and then latest decides.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """A policy as the command line writes it: "latest:2", "all", "specific:1,3".

        Raises:
            StartupError: The text is none of these.
        """
        kind, _, numbers = text.partition(":")
        values = [int(number) if number.isascii() and number.isdigit() else 0
                  for number in numbers.split(",")]  # fmt: skip
        if text == "all":
            return cls(latest=None)
        if kind == "latest" and len(values) == 1 and all(values):
            return cls(latest=values[0])
        if kind == "specific" and all(values):
            return cls(specific=tuple(sorted(values)))
        raise StartupError(
            "expected a version policy as latest:N, all or specific:V,V,… "
            f"with whole numbers from 1, got {text!r}"
        )

    def choose(self, versions: Iterable[int]) -> list[int]:
        """Those of the versions that are to be served, lowest first."""
        present = sorted(versions)
        if self.specific:
            return [version for version in present if version in self.specific]
        return present if self.latest is None else present[-self.latest :]
