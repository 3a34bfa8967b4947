"""Looks at the model repository now and then, and loads what has changed."""

import asyncio
import logging

from convscope_server.errors import RepositoryUnreadable, ServerError
from convscope_server.model_folder import ModelFolder
from convscope_server.repository import Repository

log = logging.getLogger(__name__)


class Poller:
    """Keeps a repository's models as its folder has them.

    A change is acted on when two looks in a row saw the same, so a file that is
    being written is left alone, and so is a folder that is moved away for a moment.
    What failed to load is tried again when it changes, not at every look.
    """

    def __init__(self, repository: Repository, interval_s: float) -> None:
        """Poll a repository whose first models are loaded every interval_s seconds, once run."""
        self._repository = repository
        self._interval_s = interval_s
        self._seen: dict[str, ModelFolder] = dict(repository.attempted)
        self._is_readable = True

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.poll()
            except Exception:
                log.exception("polling failed; this is a bug")

    async def poll(self) -> None:
        """Look once, and load and unload what has settled."""
        repository = self._repository
        try:
            scan = await asyncio.to_thread(repository.folder.scan)
        except RepositoryUnreadable as error:
            if self._is_readable:
                log.warning("%s; the models stay as they are", error)
            self._is_readable = False
            return
        if not self._is_readable:
            log.info("the model repository can be read again")
        self._is_readable = True
        changed = [
            name
            for name, folder in scan.items()
            if folder == self._seen.get(name) and folder != repository.attempted.get(name)
        ]
        gone = repository.attempted.keys() - scan.keys() - self._seen.keys()
        self._seen = scan
        await asyncio.gather(*map(self._load, changed), *map(repository.remove, gone))

    async def _load(self, name: str) -> None:
        try:
            await self._repository.load(name)
        except ServerError as error:
            log.error("%s; what was served before stays", error)
