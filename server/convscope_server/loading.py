"""From a model file to a model in service: checked, compiled, measured, warmed."""

import asyncio
import logging
import time

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

# A model whose largest batch takes no longer than this on one thread runs on the
# event loop. Waking a thread costs some 50 microseconds and the interpreter's
# lock on top, which for a tiny model is more than the model; and health checks
# can wait this long.
INLINE_BATCH_S = 0.003


async def load_model(source: ModelSource, config: ServerConfig, metrics: Metrics) -> ServedModel:
    """Load a model; the event loop stays free meanwhile.

    Raises:
        ServerError: The model cannot be served; the message says why.
    """
    started_s = time.perf_counter()
    settings = source.settings
    max_batch_size = min(config.max_batch_size, settings.max_batch_size or config.max_batch_size)
    backend, lean, inline = await asyncio.to_thread(_compile, source, config, max_batch_size)
    load_s = time.perf_counter() - started_s
    labels = (source.name, source.version)
    metrics.model_load_seconds.labels(*labels).set(load_s)
    metrics.model_info.labels(*labels, backend.execution_provider).set(1)
    log.info(
        "model %s, version %s: loaded and warmed in %.2f s on %s, %s",
        source.name,
        source.version,
        load_s,
        backend.execution_provider,
        "run on the event loop" if inline else f"{backend.thread_count} threads a batch",
    )
    model_metrics = ModelMetrics(metrics, source.name, source.version, backend.info)
    scheduler = Scheduler(
        max_batch_size=max_batch_size,
        max_queue_rows=settings.max_queue_rows or config.max_queue_rows,
        max_queue_bytes=config.max_queue_bytes,
        observer=model_metrics,
        worker_count=settings.instance_count or 1,
        inline=inline,
    )
    return ServedModel(
        source.name,
        source.version,
        backend=backend,
        lean=lean,
        scheduler=scheduler,
        metrics=model_metrics,
        max_batch_size=max_batch_size,
        default_timeout_s=settings.default_timeout_s,
    )


def _compile(
    source: ModelSource, config: ServerConfig, max_batch_size: int
) -> tuple[OrtBackend, OrtSession, bool]:
    """The model's backend, its lean session, and whether it is quick enough for the event loop."""
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

    # Several instances are several threads: the event loop is only one.
    if device == "cpu" and (settings.instance_count or 1) == 1:
        quick = backend(1)
        lean = quick.build_session(())
        if lean.largest_batch_s <= INLINE_BATCH_S:
            return quick, lean, True
        if thread_count == 1:
            return quick, lean, False
    threaded = backend(thread_count)
    return threaded, threaded.build_session(()), False


def _changed(source: ModelSource) -> bool:
    try:
        return stamp(source.path) != source.stamp
    except OSError:
        return True
