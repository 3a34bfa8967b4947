"""/metrics of a running server, as Prometheus reads it."""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Exposition:
    """Every sample by its name and labels."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, http: str) -> "Exposition":
        """Ask a server; http is http://HOST:PORT."""
        with urllib.request.urlopen(f"{http}/metrics", timeout=10) as answer:  # noqa: S310
            text = answer.read().decode()
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def __getitem__(self, key: tuple[str, Mapping[str, str]]) -> float:
        """The value of a sample."""
        name, labels = key
        return self.samples[name, frozenset(labels.items())]
