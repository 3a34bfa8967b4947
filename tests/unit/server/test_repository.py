"""Loads, swaps and unloads, on real models; and the poller that drives them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from support.tiny_models import (
    activations,
    random_images,
    replace_model,
    tiny_model,
    write_repository,
)

from convscope_server.config import ServerConfig
from convscope_server.errors import ModelError, NotReady, UnknownModel
from convscope_server.metrics import Metrics
from convscope_server.model_status import ModelState
from convscope_server.poller import Poller
from convscope_server.repository import Repository
from convscope_server.repository_folder import RepositoryFolder
from convscope_server.served_model import ServedModel
from convscope_server.served_models import Models
from convscope_server.version_policy import VersionPolicy

IMAGES = random_images(2)


class World:
    """A repository on disk with everything that stands on it."""

    def __init__(self, folder: Path, version_policy: str = "latest:1") -> None:
        self.folder = folder
        self.models = Models()
        self._registry = CollectorRegistry()
        self.repository = Repository(
            RepositoryFolder(folder, VersionPolicy.parse(version_policy)),
            self.models,
            ServerConfig(models=folder, max_batch_size=4),
            Metrics(self._registry),
        )

    async def offset(self, version: str = "") -> float:
        """The offset of the model that answers."""
        return await offset_of(self.models.get("tiny", version))

    def states(self) -> dict[str, tuple[ModelState, str]]:
        return {s.version: (s.state, s.reason) for s in self.models.statuses("tiny")}

    def metric_lines(self) -> list[str]:
        return [
            line
            for line in generate_latest(self._registry).decode().splitlines()
            if 'model="tiny"' in line
        ]


async def offset_of(model: ServedModel) -> float:
    computed = await model.compute(IMAGES, ())
    difference = computed.outputs[0] - activations(IMAGES)["scores"]
    assert np.ptp(difference) == 0
    return float(difference[0, 0])


def run(scenario: Callable[[World], Awaitable[None]], folder: Path, **settings: str) -> None:
    async def whole() -> None:
        world = World(folder, **settings)
        try:
            await scenario(world)
        finally:
            await world.repository.close()

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_reload_serves_the_new_file_and_an_unchanged_one_is_left_alone(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        first = world.models.get("tiny", "")
        await world.repository.load("tiny")
        assert world.models.get("tiny", "") is first
        replace_model(tmp_path, 5)
        await world.repository.load("tiny")
        assert await world.offset() == 5
        assert world.states() == {"1": (ModelState.READY, "")}

    run(scenario, write_repository(tmp_path))


def test_a_request_that_holds_the_old_model_finishes_on_it(tmp_path: Path) -> None:
    """It has found its model, decodes its pictures, and meets a reload and then an unload."""

    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        first = world.models.get("tiny", "")
        first.take_lease()
        replace_model(tmp_path, 5)
        await world.repository.load("tiny")
        second = world.models.get("tiny", "")
        second.take_lease()
        await world.repository.unload("tiny")
        with pytest.raises(UnknownModel, match="unknown model 'tiny'"):
            world.models.get("tiny", "")
        assert world.states()["1"][0] is ModelState.UNLOADING
        assert await offset_of(first) == 0
        assert await offset_of(second) == 5
        second.end_lease()
        first.end_lease()
        await until(lambda: world.states() == {"1": (ModelState.UNAVAILABLE, "unloaded")})
        for model in (first, second):
            with pytest.raises(NotReady):
                await model.compute(IMAGES, ())

    run(scenario, write_repository(tmp_path))


def test_versions_are_served_side_by_side(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for version in (1, 2, 10):
            replace_model(tmp_path, version, version=str(version))
        await world.repository.load("tiny")
        assert [await world.offset(version) for version in ("2", "10", "")] == [2, 10, 10]
        with pytest.raises(UnknownModel, match="unknown version '1' of model 'tiny': expected 2"):
            world.models.get("tiny", "1")
        second = world.models.get("tiny", "2")
        replace_model(tmp_path, 11, version="11")
        await world.repository.load("tiny")
        assert list(world.models.versions("tiny")) == ["11", "10"]
        await until(lambda: world.states()["2"] == (ModelState.UNAVAILABLE, "unloaded"))
        assert second not in world.models.all()
        (tmp_path / "tiny" / "config.pbtxt").write_text(
            "version_policy { specific { versions: 1 } }"
        )
        await world.repository.load("tiny")
        assert await world.offset() == 1

    run(scenario, tmp_path, version_policy="latest:2")


def test_a_version_that_does_not_load_leaves_all_as_it_was(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        replace_model(tmp_path, 2, version="2")
        replace_model(tmp_path, 3, version="3")
        path = tmp_path / "tiny" / "3" / "model.onnx"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(ModelError, match="load failed for model 'tiny': version 3: model"):
            await world.repository.load("tiny")
        assert await world.offset() == 0
        states = world.states()
        assert states["1"] == (ModelState.READY, "")
        assert states["2"] == (ModelState.UNAVAILABLE, "another version failed to load")
        assert "expected an ONNX model" in states["3"][1]
        lines = world.metric_lines()
        assert 'convscope_model_load_failures_total{model="tiny"} 1.0' in lines
        assert not any('version="2"' in line or 'version="3"' in line for line in lines)
        # The same version, too: it is served, and the reason stands beside it.
        path.unlink()
        (tmp_path / "tiny" / "1" / "model.onnx").write_bytes(b"nothing")
        with pytest.raises(ModelError):
            await world.repository.load("tiny")
        state, reason = world.states()["1"]
        assert state is ModelState.READY
        assert "expected an ONNX model" in reason
        replace_model(tmp_path, 7, version="3")
        replace_model(tmp_path, 8)
        await world.repository.load("tiny")
        assert world.states() == {version: (ModelState.READY, "") for version in ("1", "2", "3")}
        assert await world.offset("1") == 8

    run(scenario, write_repository(tmp_path), version_policy="all")


def test_a_file_that_changes_while_it_is_read_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        replace_model(tmp_path, 5)
        read = world.repository.folder.read

        def read_then_replaced(name: str) -> object:
            folder = read(name)
            replace_model(tmp_path, 6)
            return folder

        with monkeypatch.context() as patch:
            patch.setattr(world.repository.folder, "read", read_then_replaced)
            with pytest.raises(ModelError, match=r"model\.onnx changed while it was read"):
                await world.repository.load("tiny")
        assert await world.offset() == 0
        await world.repository.load("tiny")
        assert await world.offset() == 6

    run(scenario, write_repository(tmp_path))


def test_what_the_repository_does_not_hold(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        for name in ("absent", "../tiny", ""):
            with pytest.raises(UnknownModel, match="failed to poll from model repository"):
                await world.repository.load(name)
        await world.repository.unload("absent")
        assert await world.repository.index() == ["tiny"]
        assert not world.metric_lines()

    run(scenario, write_repository(tmp_path))


def test_loads_and_unloads_of_one_model_wait_for_one_another(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        repository = world.repository
        loads = [asyncio.ensure_future(repository.load("tiny")) for _ in range(10)]
        await asyncio.sleep(0)
        loads[0].cancel()  # whoever asked has gone: the load goes on for the others
        await asyncio.gather(*loads[1:])
        assert len(world.models.all()) == 1
        await asyncio.gather(
            *(repository.unload("tiny") if i % 2 else repository.load("tiny") for i in range(20))
        )
        await repository.unload("tiny")
        await until(lambda: world.states() == {"1": (ModelState.UNAVAILABLE, "unloaded")})
        await repository.unload("tiny")  # again: it stays known
        assert world.states() == {"1": (ModelState.UNAVAILABLE, "unloaded")}
        # Not one series is left of it, and none of the many instances either.
        assert not world.metric_lines()
        await repository.load("tiny")
        assert await world.offset() == 0

    run(scenario, write_repository(tmp_path))


def test_while_it_loads_a_model_says_so(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        load = asyncio.ensure_future(world.repository.load("tiny"))
        await world.models.changed_since(world.models.revision)
        assert world.states() == {"1": (ModelState.LOADING, "")}
        with pytest.raises(NotReady, match="being loaded"):
            world.models.get("tiny", "")
        await load

    run(scenario, write_repository(tmp_path))


def test_counters_outlive_a_reload_but_not_an_unload(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        await world.offset()
        replace_model(tmp_path, 1)
        await world.repository.load("tiny")
        await world.offset()
        count = 'convscope_queue_seconds_count{model="tiny",version="1"}'
        await until(lambda: f"{count} 2.0" in world.metric_lines())
        assert 'convscope_queue_rows{model="tiny",version="1"} 0.0' in world.metric_lines()
        await world.repository.unload("tiny")
        await until(lambda: not world.metric_lines())

    run(scenario, write_repository(tmp_path))


def test_config_pbtxt_bounds_the_batch_and_names_the_classes(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        folder = tmp_path / "tiny"
        (folder / "labels.txt").write_text("a\nb\nc")
        config = 'max_batch_size: {} output {{ label_filename: "labels.txt" }}'
        for ours, expected in ((2, 2), (3, 3), (100, 4)):  # the server's is 4
            (folder / "config.pbtxt").write_text(config.format(ours))
            await world.repository.load("tiny")
            model = world.models.get("tiny", "")
            assert (model.max_batch_size, model.info.labels) == (expected, ("a", "b", "c"))
        computed = await model.compute(random_images(9), ())
        assert computed.batch_size == 4
        (folder / "labels.txt").write_text("a\nb")
        with pytest.raises(ModelError, match="expected 3 labels, one a class, got 2"):
            await world.repository.load("tiny")

    run(scenario, write_repository(tmp_path))


def test_instances_compute_side_by_side(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        config = tmp_path / "tiny" / "config.pbtxt"
        config.write_text("instance_group [ { count: 3 kind: KIND_CPU } ]")
        await world.repository.load("tiny")
        assert set(await asyncio.gather(*(world.offset() for _ in range(50)))) == {0}

    run(scenario, write_repository(tmp_path))


# --- polling: each poll() is one look ---


def test_a_change_is_loaded_once_it_has_settled(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        poller = Poller(world.repository, 1)
        failures = 'convscope_model_load_failures_total{model="tiny"}'
        assert f"{failures} 0.0" in world.metric_lines()
        path = tmp_path / "tiny" / "1" / "model.onnx"
        whole = tiny_model(offset=5).SerializeToString()
        for length in range(100, len(whole), len(whole) // 5):  # a slow writer
            path.write_bytes(whole[:length])
            await poller.poll()
        path.write_bytes(whole)
        await poller.poll()
        assert await world.offset() == 0
        assert f"{failures} 0.0" in world.metric_lines()
        await poller.poll()
        assert await world.offset() == 5

    run(scenario, write_repository(tmp_path))


def test_what_does_not_load_is_tried_again_when_it_changes_not_at_every_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("convscope_server"), "propagate", True)

    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        poller = Poller(world.repository, 1)
        (tmp_path / "tiny" / "1" / "model.onnx").write_bytes(b"nothing")
        for _ in range(6):
            await poller.poll()
        assert await world.offset() == 0
        assert 'convscope_model_load_failures_total{model="tiny"} 1.0' in world.metric_lines()
        state, reason = world.states()["1"]
        assert (state, reason.startswith("model.onnx: expected")) == (ModelState.READY, True)
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1
        assert str(tmp_path) not in errors[0]
        replace_model(tmp_path, 3)
        for _ in range(2):
            await poller.poll()
        assert await world.offset() == 3
        assert world.states() == {"1": (ModelState.READY, "")}

    run(scenario, write_repository(tmp_path))


def test_models_come_and_go(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        poller = Poller(world.repository, 1)
        write_repository(folder, "second")
        (folder / "tiny").rename(tmp_path / "away")
        await poller.poll()
        assert [model.name for model in world.models.all()] == ["tiny"]
        await poller.poll()
        assert [model.name for model in world.models.all()] == ["second"]
        await until(lambda: not world.states() and not world.metric_lines())
        (tmp_path / "away").rename(folder / "tiny")
        for _ in range(2):
            await poller.poll()
        assert [model.name for model in world.models.all()] == ["second", "tiny"]

    folder = write_repository(tmp_path / "models")
    run(scenario, folder)


def test_a_folder_that_is_away_for_one_look_unloads_nothing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        first = world.models.get("tiny", "")
        poller = Poller(world.repository, 1)
        away = tmp_path / "away"
        for _ in range(3):
            (folder / "tiny").rename(away)
            await poller.poll()
            away.rename(folder / "tiny")
            await poller.poll()
        assert world.models.get("tiny", "") is first

    folder = write_repository(tmp_path / "models")
    run(scenario, folder)


def test_a_repository_that_cannot_be_read_leaves_everything_serving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("convscope_server"), "propagate", True)

    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        poller = Poller(world.repository, 1)
        folder.rename(tmp_path / "away")
        for _ in range(5):
            await poller.poll()
        assert await world.offset() == 0
        warnings = [record for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == 1
        (tmp_path / "away").rename(folder)
        replace_model(folder, 4)
        for _ in range(2):
            await poller.poll()
        assert await world.offset() == 4

    folder = write_repository(tmp_path / "models")
    run(scenario, folder)


def test_a_folder_that_loses_its_files_keeps_serving_and_says_why(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.repository.load("tiny")
        poller = Poller(world.repository, 1)
        (tmp_path / "tiny" / "1" / "model.onnx").unlink()
        for _ in range(3):
            await poller.poll()
        assert await world.offset() == 0
        assert world.states() == {
            "": (ModelState.UNAVAILABLE, "expected VERSION/model.onnx in its folder, found none"),
            "1": (ModelState.READY, ""),
        }

    run(scenario, write_repository(tmp_path))
