"""The models in service, and where every known version stands."""

import asyncio
from collections.abc import Iterable, Mapping

from convscope_server.errors import NotReady, UnknownModel, shortened
from convscope_server.model_status import ModelState, ModelStatus
from convscope_server.served_model import ServedModel


class Models:
    """What requests find their model in; repository.Repository alone changes it.

    Belongs to one event loop, so whoever gets a model and takes a lease on it
    without an await between the two never meets one that is being closed.
    """

    def __init__(self, default_name: str = "") -> None:
        """Begin with none; default_name answers requests that name no model."""
        # By name; the versions of a name from the highest to the lowest.
        self._served: dict[str, dict[str, ServedModel]] = {}
        self._statuses: dict[tuple[str, str], ModelStatus] = {}
        self._default_name = default_name
        self._revision = 0
        self._changed = asyncio.Event()

    def serve(self, name: str, versions: Iterable[ServedModel]) -> list[ServedModel]:
        """Let these versions of a model answer from now on, and no others.

        Returns:
            Those that answered until now and no longer do. Leases on them go on.
        """
        before = self._served.get(name, {}).values()
        now = sorted(versions, key=lambda model: _number(model.version), reverse=True)
        left = [model for model in before if model not in now]
        if now:
            self._served[name] = {model.version: model for model in now}
        else:
            self._served.pop(name, None)
        if now:  # what failed or was unloaded before is history
            for status in self.statuses(name):
                if status.state is not ModelState.UNLOADING:
                    del self._statuses[name, status.version]
        for state, models in ((ModelState.UNLOADING, left), (ModelState.READY, now)):
            for model in models:
                status = ModelStatus(name, model.version, state)
                self._statuses[name, model.version] = status
        self._notify()
        return left

    def tell(self, status: ModelStatus) -> None:
        """Note where a version stands; of one that is served only the reason changes."""
        if status.version in self._served.get(status.name, {}):
            status = ModelStatus(status.name, status.version, ModelState.READY, status.reason)
        self._statuses[status.name, status.version] = status
        self._notify()

    def forget(self, name: str, version: str) -> None:
        """Know no longer of a version that is not served."""
        self._statuses.pop((name, version), None)
        self._notify()

    def all(self) -> list[ServedModel]:
        """Every model in service, by name, its versions from the lowest."""
        return [
            model
            for name in sorted(self._served)
            for model in reversed(self._served[name].values())
        ]

    def versions(self, name: str) -> Mapping[str, ServedModel]:
        """The versions of a model that are in service."""
        return self._served.get(name, {})

    def statuses(self, name: str | None = None) -> list[ModelStatus]:
        """Where every known version stands, of one model or of all, by name and version."""
        wanted = [s for s in self._statuses.values() if name is None or s.name == name]
        return sorted(wanted, key=lambda status: (status.name, _number(status.version)))

    def status(self, name: str, version: str) -> ModelStatus:
        """Where one version stands.

        Args:
            name: The model; empty for the default.
            version: Its version; empty for the one that would answer, or else the highest.

        Raises:
            UnknownModel: No such version is known.
        """
        wanted = name or self.default_name
        known = {status.version: status for status in self.statuses(wanted)}
        if not version:
            served = self._served.get(wanted, {})
            version = next(iter(served), "") or max(known, key=_number, default="")
        if version not in known:
            raise self._failure(wanted, version)
        return known[version]

    @property
    def default_name(self) -> str:
        """The model that answers requests that name none; empty if there is no such model."""
        if self._default_name or len(self._served) != 1:
            return self._default_name
        return next(iter(self._served))

    def get(self, name: str, version: str) -> ServedModel:
        """The model of a name, empty for the default, and version, empty for the highest.

        Raises:
            UnknownModel: There is none.
            NotReady: It is being loaded.
        """
        wanted = name or self.default_name
        versions = self._served.get(wanted)
        if versions is None or (version and version not in versions):
            raise self._failure(wanted, version)
        return versions[version] if version else next(iter(versions.values()))

    @property
    def revision(self) -> int:
        """Rises whenever anything changes."""
        return self._revision

    async def changed_since(self, revision: int) -> None:
        """Wait until the revision is another."""
        while self._revision == revision:
            await self._changed.wait()

    def _notify(self) -> None:
        self._revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def _failure(self, wanted: str, version: str) -> UnknownModel | NotReady:
        names = shortened(sorted(self._served)) or "none: no model is loaded"
        if not wanted:
            return UnknownModel(
                f"the server has no default model: expected the name of one of {names}"
            )
        if any(
            status.state is ModelState.LOADING and version in ("", status.version)
            for status in self.statuses(wanted)
        ):
            return NotReady(f"model {wanted!r} is being loaded; try again")
        if wanted not in self._served:
            return UnknownModel(f"unknown model {wanted[:100]!r}: expected one of {names}")
        expected = ", ".join(reversed(self._served[wanted]))
        return UnknownModel(
            f"unknown version {version[:100]!r} of model {wanted!r}: expected {expected}"
        )


def _number(version: str) -> int:
    return int(version or 0)
