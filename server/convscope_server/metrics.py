"""Every Prometheus metric of the server, named and bucketed once.

Labels come from bounded sets only: models and their classes, methods, codes, reasons.
"""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.metrics import MetricWrapperBase

from convscope_server.backend import Float32Array, ModelInfo
from convscope_server.statistics import ModelStatistics

# 50 µs to 10 s, three a decade: a tiny model answers in less than a millisecond.
_SECONDS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_ROWS = tuple(float(1 << power) for power in range(13))
_MODEL = ("model", "version")


class Metrics:
    """The server's metrics in one registry.

    A gauge says how several workers' values become one (multiprocess_mode).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every metric; each registry takes one Metrics."""
        # A second series for each counter and histogram, which nobody queries.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        # go-grpc-prometheus' names, so that dashboards for gRPC servers work.
        rpc = ("grpc_type", "grpc_service", "grpc_method")
        self.rpc_started = Counter(
            "grpc_server_started_total", "RPCs started.", rpc, registry=registry
        )
        self.rpc_handled = Counter(
            "grpc_server_handled_total",
            "RPCs completed, by gRPC status code. UNKNOWN means a bug.",
            (*rpc, "grpc_code"),
            registry=registry,
        )
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time from an RPC's first message to its end.",
            rpc,
            buckets=_SECONDS,
            registry=registry,
        )
        self.model_info = Gauge(
            "convscope_model_info",
            "1 for each model that is served.",
            (*_MODEL, "execution_provider"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.model_load_seconds = Gauge(
            "convscope_model_load_seconds",
            "Time to load and warm the model.",
            _MODEL,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.model_load_failures = Counter(
            "convscope_model_load_failures_total",
            "Loads of the model that failed.",
            ("model",),
            registry=registry,
        )
        self.images = Counter(
            "convscope_images_total", "Images computed.", _MODEL, registry=registry
        )
        self.predictions = Counter(
            "convscope_predictions_total",
            "Images computed, by the class that was most probable.",
            (*_MODEL, "label"),
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "convscope_decode_seconds",
            "Time to read the pictures of a request into pixels.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "convscope_queue_seconds",
            "Time a request waited until its last row was in a batch.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "convscope_compute_seconds",
            "Time a batch took to compute.",
            _MODEL,
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "convscope_batch_size_rows",
            "Rows in a batch.",
            _MODEL,
            buckets=_ROWS,
            registry=registry,
        )
        self.batches_cut = Counter(
            "convscope_batches_cut_total",
            "Batches by why they were cut: full; free, a worker was free and took all there "
            "was; delay, the wait for more rows was over.",
            (*_MODEL, "reason"),
            registry=registry,
        )
        self.queue_rows = Gauge(
            "convscope_queue_rows",
            "Rows that wait for a batch.",
            _MODEL,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_bytes = Gauge(
            "convscope_queue_bytes",
            "Bytes of rows that wait.",
            _MODEL,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.refused = Counter(
            "convscope_requests_refused_total",
            "Times that a request found no room, by reason; a stream then waits and tries again.",
            (*_MODEL, "reason"),
            registry=registry,
        )
        self.refused_calls = Counter(
            "convscope_calls_refused_total",
            "Calls refused because too many were being answered.",
            registry=registry,
        )
        self.failed_batches = Counter(
            "convscope_batches_failed_total",
            "Batches that the runtime failed to compute.",
            _MODEL,
            registry=registry,
        )
        self.dropped_rows = Counter(
            "convscope_rows_dropped_total",
            "Rows that left the queue without being computed, by reason.",
            (*_MODEL, "reason"),
            registry=registry,
        )
        self.feature_map_requests = Counter(
            "convscope_feature_map_requests_total",
            "Requests that asked for feature maps.",
            _MODEL,
            registry=registry,
        )
        self.feature_map_bytes = Counter(
            "convscope_feature_map_bytes_total",
            "Bytes of feature maps returned.",
            _MODEL,
            registry=registry,
        )
        self.sessions = Gauge(
            "convscope_sessions",
            "Sessions held: the lean one, and one for each cached set of layers.",
            _MODEL,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._by_version = [
            family
            for family in vars(self).values()
            if isinstance(family, MetricWrapperBase) and set(_MODEL) <= set(family._labelnames)
        ]

    def forget(self, name: str, version: str) -> None:
        """Remove every series of a version of a model that is gone."""
        # Files that workers share keep what was removed; worker_metrics.py goes by this.
        self.sessions.labels(name, version).set(0)
        for family in self._by_version:
            family.remove_by_labels({"model": name, "version": version})


class ModelMetrics:
    """One model's metrics, its labels bound; also the scheduler's Observer.

    Attributes:
        statistics: The same story, as the Open Inference Protocol asks for it.
    """

    def __init__(self, metrics: Metrics, name: str, version: str, info: ModelInfo) -> None:
        """Bind every metric of a model, so that all its series exist from the start."""
        labels = {"model": name, "version": version}
        self._queued = (0, 0)
        self.statistics = ModelStatistics()
        self._images = metrics.images.labels(**labels)
        self._predictions = [
            metrics.predictions.labels(**labels, label=label) for label in info.labels
        ]
        self.decode_seconds = metrics.decode_seconds.labels(**labels)
        self.feature_map_requests = metrics.feature_map_requests.labels(**labels)
        self.feature_map_bytes = metrics.feature_map_bytes.labels(**labels)
        self.sessions = metrics.sessions.labels(**labels)
        self._queue_seconds = metrics.queue_seconds.labels(**labels)
        self._compute_seconds = metrics.compute_seconds.labels(**labels)
        self._batch_size = metrics.batch_size.labels(**labels)
        self._queue_rows = metrics.queue_rows.labels(**labels)
        self._queue_bytes = metrics.queue_bytes.labels(**labels)
        self.refused = {
            reason: metrics.refused.labels(**labels, reason=reason)
            for reason in ("queue_full", "predicted_wait", "memory", "sessions", "too_large")
        }
        self._cut = {
            reason: metrics.batches_cut.labels(**labels, reason=reason)
            for reason in ("full", "free", "delay")
        }
        self._failed_batches = metrics.failed_batches.labels(**labels)
        self._dropped = {
            reason: metrics.dropped_rows.labels(**labels, reason=reason)
            for reason in ("deadline", "cancelled", "failed", "closed")
        }

    def queue_changed(self, rows: int, size_bytes: int) -> None:
        """The queue now holds this many rows, of this many bytes."""
        # By the difference: while a reloaded model drains, two queues share the series.
        self._queue_rows.inc(rows - self._queued[0])
        self._queue_bytes.inc(size_bytes - self._queued[1])
        self._queued = (rows, size_bytes)

    def batch_done(self, outputs: Sequence[Float32Array], compute_s: float, reason: str) -> None:
        """A batch was computed: scores and probabilities, (N, K), and what else was asked for."""
        probabilities = outputs[1]
        rows = len(probabilities)
        self.statistics.batches[rows].add(compute_s)
        self._cut[reason].inc()
        self._batch_size.observe(rows)
        self._compute_seconds.observe(compute_s)
        self._images.inc(rows)
        for index, count in Tally(probabilities.argmax(axis=1).tolist()).items():
            self._predictions[index].inc(count)

    def batch_failed(self) -> None:
        """A batch failed to compute."""
        self._failed_batches.inc()

    def queued(self, queue_s: float) -> None:
        """A request left the queue after this time."""
        self._queue_seconds.observe(queue_s)

    def dropped(self, reason: str, rows: int) -> None:
        """Rows left the queue without being computed."""
        self._dropped[reason].inc(rows)


class RpcMetrics:
    """One method's metrics, its labels bound: a call looks nothing up."""

    def __init__(self, metrics: Metrics, kind: str, service: str, method: str) -> None:
        """Bind a method's metrics, so that its series exist from the start."""
        labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method}
        self._started = metrics.rpc_started.labels(**labels)
        self._seconds = metrics.rpc_seconds.labels(**labels)
        self._handled_family = metrics.rpc_handled
        self._labels = labels
        self._handled = {"OK": metrics.rpc_handled.labels(**labels, grpc_code="OK")}

    def started(self) -> None:
        """A call began."""
        self._started.inc()

    def handled(self, code: str, seconds: float) -> None:
        """A call ended with this status code after this time."""
        counter = self._handled.get(code)
        if counter is None:
            counter = self._handled_family.labels(**self._labels, grpc_code=code)
            self._handled[code] = counter
        counter.inc()
        self._seconds.observe(seconds)
