"""Loads models and takes them out of service, so that no request notices.

Load, warm every batch size, swap in one step, drain. Reads no folder itself
(repository_folder.py does) and decides nothing of when (app.py, poller.py and
the servicer do).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from convscope_server.config import ServerConfig
from convscope_server.cpu import available_cpu_count
from convscope_server.errors import ModelError, ServerError, UnknownModel
from convscope_server.loading import load_model
from convscope_server.memory import release_free_memory
from convscope_server.metrics import Metrics
from convscope_server.model_folder import ModelFolder, ModelSource
from convscope_server.model_status import ModelState, ModelStatus
from convscope_server.repository_folder import RepositoryFolder
from convscope_server.served_model import ServedModel
from convscope_server.served_models import Models

log = logging.getLogger(__name__)


class Repository:
    """Brings models into service and out of it; belongs to one event loop.

    One load or unload of a model at a time, others of it wait; different models
    load side by side, half as many as there are processors.

    Attributes:
        folder: Where models are on disk.
        attempted: What each model's folder held when it was last loaded, or when that failed.
    """

    def __init__(
        self, folder: RepositoryFolder, models: Models, config: ServerConfig, metrics: Metrics
    ) -> None:
        """Begin with nothing loaded; what is loaded goes into models."""
        self.folder = folder
        self.attempted: dict[str, ModelFolder] = {}
        self._models = models
        self._config = config
        self._metrics = metrics
        # What each version in service was loaded from, to tell whether it changed.
        self._sources: dict[ServedModel, ModelSource] = {}
        # Models in memory by name and version: while one is replaced there are two.
        self._instances: Counter[tuple[str, str]] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        # Loading measures how long batches take: do not let loads fill the machine.
        self._slots = asyncio.Semaphore(max(1, available_cpu_count() // 2))
        self._retiring: dict[ServedModel, asyncio.Task[None]] = {}
        self._working: set[asyncio.Task[None]] = set()

    async def load(self, name: str) -> None:
        """Bring into service what a model's folder holds now; nothing happens if it already is.

        Goes on if the caller is cancelled. On failure what was in service stays.

        Raises:
            UnknownModel: The repository has no such model.
            ModelError: It cannot be served; the message says why.
            RepositoryUnreadable: The repository cannot be listed.
        """
        if name not in await asyncio.to_thread(self.folder.names):
            raise UnknownModel(
                f"failed to load {name[:100]!r}, failed to poll from model repository: "
                "expected a folder of that name with VERSION/model.onnx in it"
            )
        await self._finish(self._load(name))

    async def unload(self, name: str) -> None:
        """Take a model out of service; the requests that hold it finish. Idempotent."""
        await self._finish(self._unload(name))

    async def remove(self, name: str) -> None:
        """Unload a model that is gone from the repository, and know no more of it."""
        self.attempted.pop(name, None)
        await self._finish(self._unload(name))
        self._locks.pop(name, None)
        for status in self._models.statuses(name):
            if status.state is not ModelState.UNLOADING:
                self._models.forget(name, status.version)

    async def index(self) -> list[ModelStatus | str]:
        """Where every version stands; just the name of a model that nobody has loaded.

        Raises:
            RepositoryUnreadable: The repository cannot be listed.
        """
        names = await asyncio.to_thread(self.folder.names)
        statuses = self._models.statuses()
        known = {status.name for status in statuses}
        return [*statuses, *(name for name in names if name not in known)]

    async def close(self) -> None:
        """Stop loading and draining, and close every model at once."""
        models = [*self._retiring, *self._models.all()]
        tasks = [*self._working, *self._retiring.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for model in models:
            await model.close()

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work to its end, whether or not the caller waits for it."""
        await asyncio.shield(self._start(work))

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        task.add_done_callback(_hear)
        return task

    async def _load(self, name: str) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            folder = await asyncio.to_thread(self.folder.read, name)
            self.attempted[name] = folder
            self._metrics.model_load_failures.labels(name)  # told as 0 before it first fails
            if folder.ignored:
                log.warning(
                    "model %s: ignored in config.pbtxt: %s", name, ", ".join(folder.ignored)
                )
            if folder.problem:
                self._models.tell(ModelStatus(name, "", ModelState.UNAVAILABLE, folder.problem))
                raise self._failed(name, folder.problem)
            serving = {
                self._sources[model]: model for model in self._models.versions(name).values()
            }
            new = [source for source in folder.sources if source not in serving]
            loaded = await self._load_all(new)
            kept = [serving[source] for source in folder.sources if source in serving]
            for source, model in zip(new, loaded, strict=True):
                self._sources[model] = source
            for model in self._models.serve(name, [*kept, *loaded]):
                self._retire(model)

    async def _load_all(self, sources: list[ModelSource]) -> list[ServedModel]:
        """Load all of these versions of one model, or none.

        Raises:
            ModelError: At least one cannot be served; each one's status says why.
        """
        for source in sources:
            self._instances[source.name, source.version] += 1
            self._tell(source, ModelState.LOADING)
        results = await asyncio.gather(*map(self._load_one, sources), return_exceptions=True)
        failures = []
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, BaseException):
                failures.append(f"version {source.version}: {result}")
                self._tell(source, ModelState.UNAVAILABLE, str(result))
        if not failures:
            return [result for result in results if isinstance(result, ServedModel)]
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, ServedModel):
                self._tell(source, ModelState.UNAVAILABLE, "another version failed to load")
                await result.close()
                self._drop_instance(result.name, result.version)
        raise self._failed(sources[0].name, "; ".join(failures))

    async def _load_one(self, source: ModelSource) -> ServedModel:
        key = (source.name, source.version)
        try:
            async with self._slots:
                return await load_model(source, self._config, self._metrics)
        except BaseException as error:
            self._drop_instance(*key)
            if isinstance(error, ServerError | asyncio.CancelledError):
                raise
            log.exception("model %s, version %s: loading failed; this is a bug", *key)
            raise ModelError("internal error; the server's log has the details") from error

    async def _unload(self, name: str) -> None:
        if name not in self._locks:
            return  # never loaded
        async with self._locks[name]:
            for model in self._models.serve(name, ()):
                self._retire(model)
            self._metrics.model_load_failures.remove_by_labels({"model": name})

    def _retire(self, model: ServedModel) -> None:
        del self._sources[model]
        name, version = model.name, model.version
        task = asyncio.ensure_future(model.retire())
        self._retiring[model] = task

        def retired(task: "asyncio.Task[None]") -> None:
            del self._retiring[model]
            if not task.cancelled():
                self._start(asyncio.to_thread(release_free_memory))
            if self._drop_instance(name, version):
                log.info("model %s, version %s: unloaded", name, version)
                if name in self.attempted:
                    status = ModelStatus(name, version, ModelState.UNAVAILABLE, "unloaded")
                    self._models.tell(status)
                else:
                    self._models.forget(name, version)

        task.add_done_callback(retired)

    def _drop_instance(self, name: str, version: str) -> bool:
        """One instance less; True if it was the last, whose metrics are then removed."""
        self._instances[name, version] -= 1
        if self._instances[name, version]:
            return False
        del self._instances[name, version]
        self._metrics.forget(name, version)
        return True

    def _tell(self, source: ModelSource, state: ModelState, reason: str = "") -> None:
        self._models.tell(ModelStatus(source.name, source.version, state, reason))

    def _failed(self, name: str, reason: str) -> ModelError:
        self._metrics.model_load_failures.labels(name).inc()
        return ModelError(f"load failed for model '{name}': {reason}")


def _hear(task: "asyncio.Task[None]") -> None:
    """Nobody may be left to hear of a failure: say that it was heard."""
    if not task.cancelled():
        task.exception()
