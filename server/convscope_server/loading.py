"""From a model file to a model in service: checked, compiled, measured, warmed."""

import asyncio
import logging
import time

from convscope_server.batch_queue import QueueLimits
from convscope_server.config import ServerConfig
from convscope_server.cpu import available_cpu_count
from convscope_server.errors import ServerError, StartupError
from convscope_server.metrics import Metrics, ModelMetrics
from convscope_server.model_file import ModelFile
from convscope_server.ort_backend import OrtBackend, OrtSession
from convscope_server.repository import ModelSource
from convscope_server.scheduler import Scheduler
from convscope_server.served_model import ServedModel

log = logging.getLogger(__name__)


async def load_model(source: ModelSource, config: ServerConfig, metrics: Metrics) -> ServedModel:
    """Load a model; the event loop stays free meanwhile.

    Raises:
        StartupError: The model cannot be served; the message says which and why.
    """
    started_s = time.perf_counter()
    try:
        backend, lean, notes = await asyncio.to_thread(_compile, source, config)
    except ServerError as error:
        raise StartupError(f"model {source.name}, version {source.version}: {error}") from error
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
    limits = QueueLimits(
        max_batch_size=backend.max_batch_size,
        max_rows=config.max_queue_rows,
        max_bytes=config.max_queue_bytes,
        max_delay_s=config.max_queue_delay_ms / 1000,
    )
    scheduler = Scheduler(limits, model_metrics, full_batch_s=lean.largest_batch_s)
    return ServedModel(
        source.name,
        source.version,
        backend=backend,
        lean=lean,
        scheduler=scheduler,
        metrics=model_metrics,
    )


def _compile(
    source: ModelSource, config: ServerConfig
) -> tuple[OrtBackend, OrtSession, tuple[str, ...]]:
    """The model's backend, its lean session, on one thread if that is quick enough, and notes."""
    model_file = ModelFile.load(source.path)
    thread_count = config.thread_count or available_cpu_count()

    def backend(threads: int) -> OrtBackend:
        return OrtBackend(
            model_file,
            device=config.device,
            max_batch_size=config.max_batch_size,
            thread_count=threads,
        )

    if config.device == "cpu":
        quick = backend(1)
        lean = quick.build_session(())
        if lean.inline or thread_count == 1:
            return quick, lean, model_file.notes
    threaded = backend(thread_count)
    return threaded, threaded.build_session(()), model_file.notes
