"""What a metric costs to count: in the process, and in the files that workers share.

    python benchmarks/metrics.py [--rounds 9]

Printed are medians over the rounds of the time of one operation. In each round the
two forms are timed one after the other, each in a process of its own, since
prometheus_client chooses between them when it is imported.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

_TIMED = """
import sys, timeit
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
if sys.argv[1]:
    import os
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
    values.ValueClass = values.MultiProcessValue(lambda: 1)
registry = CollectorRegistry()
counter = Counter("a", "A.", ["l"], registry=registry).labels("x")
gauge = Gauge("b", "B.", ["l"], registry=registry, multiprocess_mode="livesum").labels("x")
buckets = [0.00005 * 2**power for power in range(17)]
histogram = Histogram("c", "C.", ["l"], buckets=buckets, registry=registry).labels("x")
for call in (counter.inc, lambda: gauge.set(3), lambda: histogram.observe(0.001)):
    print(min(timeit.repeat(call, number=20_000, repeat=3)) / 20_000)
"""
_OPERATIONS = ("counter.inc()", "gauge.set()", "histogram.observe()")


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            rounds.append([_seconds(""), _seconds(folder)])
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, Python "
        f"{platform.python_version()}, prometheus_client {version('prometheus_client')}, "
        f"{options.rounds} rounds\n"
    )
    print("| operation | in the process, µs | shared files, µs | ratio |")
    print("|---|---:|---:|---:|")
    for number, operation in enumerate(_OPERATIONS):
        pairs = [(own[number], shared[number]) for own, shared in rounds]
        ratios = [shared / own for own, shared in pairs]
        print(
            f"| `{operation}` | {statistics.median(own for own, _ in pairs) * 1e6:.2f} "
            f"| {statistics.median(shared for _, shared in pairs) * 1e6:.2f} "
            f"| {statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f}) |"
        )


def _seconds(folder: str) -> list[float]:
    printed = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _TIMED, folder], check=True, capture_output=True, text=True
    )
    return [float(line) for line in printed.stdout.split()]


if __name__ == "__main__":
    main()
