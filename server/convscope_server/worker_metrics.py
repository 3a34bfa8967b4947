"""The supervisor's /metrics: all workers' metrics as one set, and the processes' own.

The workers write prometheus_client's multi-process files, one set a worker number. A
worker that died leaves its counters there, and its successor counts on; its gauges go.
"""

import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import PLATFORM_COLLECTOR, CollectorRegistry, Counter, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

# Of each process its own; all others of prometheus_client's are added up.
_NOT_ADDED_UP = ("process_start_time_seconds", "process_max_fds")


class WorkerMetrics:
    """What one scrape of the supervisor shows.

    Attributes:
        registry: All of it.
        restarts: How often a worker was started again.
    """

    def __init__(self, folder: Path, process_ids: Callable[[], Iterable[int]]) -> None:
        """Show what the workers write to a folder.

        Args:
            folder: Where workers keep their metrics.
            process_ids: Tells the workers that live.
        """
        self._folder = folder
        self.registry = CollectorRegistry()
        self.registry.register(_Workers(folder))
        self.registry.register(_Processes(process_ids))
        self.registry.register(PLATFORM_COLLECTOR)
        self.restarts = Counter(
            "convscope_worker_restarts_total",
            "Worker processes started again after one ended unasked.",
            registry=self.registry,
        )

    def worker_ended(self, number: int) -> None:
        """Take a worker's gauges away; its counters stay."""
        mark_process_dead(number, str(self._folder))  # type: ignore[no-untyped-call]


class _Workers(Collector):
    """The sum over the workers' files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        # A worker makes a file first and fills it then.
        files = [str(file) for file in self._folder.glob("*.db") if _size_bytes(file)]
        families = list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
        # The series of a model that was unloaded stay in the files for ever, since
        # prometheus_client cannot remove them there; that it holds no session tells.
        loaded = {
            (sample.labels["model"], sample.labels["version"])
            for family in families
            if family.name == "convscope_sessions"
            for sample in family.samples
            if sample.value
        }
        models = {model for model, _ in loaded}
        for family in families:
            family.samples = [
                sample for sample in family.samples if _is_told(sample, loaded, models)
            ]
            yield family


def _is_told(sample: Sample, loaded: set[tuple[str, str]], models: set[str]) -> bool:
    labels = sample.labels
    if "version" in labels:
        return (labels["model"], labels["version"]) in loaded
    # Of failures to load, those of a model that is not loaded matter most.
    return "model" not in labels or labels["model"] in models or sample.value > 0


class _Processes(Collector):
    """process_* of supervisor and workers together.

    Memory that processes share is counted for each. CPU time of workers that ended is in.
    """

    def __init__(self, process_ids: Callable[[], Iterable[int]]) -> None:
        self._process_ids = process_ids
        self._own = ProcessCollector(registry=None)
        self._cpu_s = 0.0

    def collect(self) -> Iterator[Metric]:
        families = {family.name: family for family in self._own.collect()}
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        for process_id in self._process_ids():
            collector = ProcessCollector(pid=lambda pid=process_id: pid, registry=None)  # type: ignore[misc]
            for family in collector.collect():
                if family.name in families and family.name not in _NOT_ADDED_UP:
                    _add(families[family.name], family.samples[0].value)
        if cpu := families.get("process_cpu_seconds"):
            _add(cpu, ended.ru_utime + ended.ru_stime)
            # A worker that ends right here is in neither number: never let a counter sink.
            self._cpu_s = max(self._cpu_s, cpu.samples[0].value)
            cpu.samples = [cpu.samples[0]._replace(value=self._cpu_s)]
        yield from families.values()


def _add(family: Metric, value: float) -> None:
    (sample,) = family.samples
    family.samples = [sample._replace(value=sample.value + value)]


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
