"""From a model file to a model in service: checked, compiled, measured, warmed."""

import asyncio
import logging
import time

from convscope_server.batch_queue import QueueLimits
from convscope_server.batch_request import DEFAULT_PRIORITY
from convscope_server.config import ServerConfig
from convscope_server.cpu import available_cpu_count
from convscope_server.errors import ModelError
from convscope_server.metrics import Metrics, ModelMetrics
from convscope_server.model_file import ModelFile
from convscope_server.model_folder import ModelSource, stamp
from convscope_server.ort_backend import OrtBackend, OrtSession
from convscope_server.scheduler import Scheduler
from convscope_server.served_model import ServedModel

log = logging.getLogger(__name__)


async def load_model(source: ModelSource, config: ServerConfig, metrics: Metrics) -> ServedModel:
    """Load a model; the event loop stays free meanwhile.

    Raises:
        ServerError: The model cannot be served; the message says why.
    """
    started_s = time.perf_counter()
    settings = source.settings
    max_batch_size = min(config.max_batch_size, settings.max_batch_size or config.max_batch_size)
    backend, lean, notes = await asyncio.to_thread(_compile, source, config, max_batch_size)
    load_s = time.perf_counter() - started_s
    for note in notes:
        log.warning("model %s, version %s: %s", source.name, source.version, note)
    labels = (source.name, source.version)
    metrics.model_load_seconds.labels(*labels).set(load_s)
    metrics.model_info.labels(*labels, backend.execution_provider).set(1)
    log.info(
        "model %s, version %s: loaded and warmed in %.2f s on %s, %s",
        source.name,
        source.version,
        load_s,
        backend.execution_provider,
        "run on the event loop" if lean.inline else f"{backend.thread_count} threads a batch",
    )
    model_metrics = ModelMetrics(metrics, source.name, source.version, backend.info)
    delay_s = settings.max_queue_delay_s
    limits = QueueLimits(
        max_batch_size=backend.max_batch_size,
        max_rows=settings.max_queue_rows or config.max_queue_rows,
        max_bytes=config.max_queue_bytes,
        max_delay_s=config.max_queue_delay_ms / 1000 if delay_s is None else delay_s,
    )
    scheduler = Scheduler(
        limits,
        model_metrics,
        worker_count=settings.instance_count or 1,
        full_batch_s=lean.largest_batch_s,
    )
    return ServedModel(
        source.name,
        source.version,
        backend=backend,
        lean=lean,
        scheduler=scheduler,
        metrics=model_metrics,
        default_timeout_s=settings.default_timeout_s,
        default_priority=settings.default_priority or DEFAULT_PRIORITY,
    )


def _compile(
    source: ModelSource, config: ServerConfig, max_batch_size: int
) -> tuple[OrtBackend, OrtSession, tuple[str, ...]]:
    """The model's backend, its lean session, on one thread if that is quick enough, and notes."""
    settings = source.settings
    model_file = ModelFile.load(source.path)
    if _changed(source):
        raise ModelError(f"{source.path.name} changed while it was read")
    if settings.labels:
        model_file.set_labels(settings.labels)
    thread_count = settings.thread_count or config.thread_count or available_cpu_count()
    device = settings.device or config.device

    def backend(threads: int) -> OrtBackend:
        return OrtBackend(
            model_file, device=device, max_batch_size=max_batch_size, thread_count=threads
        )

    if device == "cpu":
        quick = backend(1)
        lean = quick.build_session((), must_be_inline=thread_count > 1)
        if lean.inline or thread_count == 1:
            return quick, lean, model_file.notes
    threaded = backend(thread_count)
    return threaded, threaded.build_session(()), model_file.notes


def _changed(source: ModelSource) -> bool:
    try:
        return stamp(source.path) != source.stamp
    except OSError:
        return True
