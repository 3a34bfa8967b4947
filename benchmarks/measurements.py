"""What was measured, and what is made of it over the rounds."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured once a round.

    Attributes:
        part: Of wire.PARTS, or "raw".
        model: The model's name.
        server: A service of convscope; or "echo"; of "raw", the mode.
        transport: "grpcio", "envoy", or "" of "raw".
        in_flight: Calls or streams at a time; of "raw", the batch size.
        connections: Over how many.
    """

    part: str
    model: str
    server: str
    transport: str = ""
    in_flight: int = 1
    connections: int = 1

    def by_load(self) -> tuple[str, int, int, str, bool]:
        """To sort by: what is asked for, of which transport; the echo before the others."""
        is_echo = self.server == "echo"
        return self.part, self.in_flight, self.connections, self.transport, not is_echo


@dataclass(slots=True)
class Measurements:
    """Values of each case by name, one a round."""

    values: dict[Case, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, case: Case, **values: float) -> None:
        """What a round measured of a case."""
        self.values.setdefault(case, []).append(values)

    def cases(self, part: str) -> list[Case]:
        """The cases of a part, in the order in which they were measured."""
        return [case for case in self.values if case.part == part]

    def median(self, case: Case, name: str) -> float:
        """Over the rounds."""
        return statistics.median(one[name] for one in self.values[case])

    def ratios(self, case: Case, other: Case, name: str) -> list[float]:
        """Of one case to another, round by round; empty where either was not measured."""
        if case not in self.values or other not in self.values:
            return []
        pairs = zip(self.values[case], self.values[other], strict=False)
        return [ours[name] / theirs[name] for ours, theirs in pairs]

    def best_raw(self, model: str) -> Case | None:
        """How ONNX Runtime itself was quickest with a model."""
        cases = [case for case in self.cases("raw") if case.model == model]
        return max(cases, key=lambda case: self.median(case, "images_per_s"), default=None)


def spread(ratios: Sequence[float]) -> str:
    """Median and range."""
    if len(ratios) < 2:
        return "".join(f"{ratio:.2f}" for ratio in ratios)
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns whose heading ends in ":" are numbers."""
    heads = [head.strip() for head in header.split("|")]
    lines = [[head.rstrip(":") for head in heads]]
    lines.append(["---:" if head.endswith(":") else "---" for head in heads])
    lines.extend(list(row) for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
