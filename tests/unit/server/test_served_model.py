import asyncio
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from support.gated_session import GatedSession, images
from support.tiny_models import activations, random_images, tiny_model

from convscope_server.backend import ModelInfo
from convscope_server.batch_queue import QueueLimits
from convscope_server.batch_request import Computed
from convscope_server.errors import BackendFailure, DeadlineExceeded, ModelError, Overloaded
from convscope_server.metrics import Metrics, ModelMetrics
from convscope_server.model_file import ModelFile
from convscope_server.ort_backend import OrtBackend
from convscope_server.scheduler import Scheduler
from convscope_server.served_model import ServedModel
from convscope_server.session_cache import MAX_EXTRA_SESSIONS, MAX_SESSIONS

INFO = ModelFile(tiny_model()).info


class CountingBackend:
    """A Backend whose sessions are gated, and which counts how often it builds one."""

    execution_provider = "test"

    def __init__(self) -> None:
        self.built: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    @property
    def info(self) -> ModelInfo:
        return INFO

    def build_session(self, tensors: tuple[str, ...], *, native: bool = False) -> GatedSession:
        self.built.append(tensors)
        self.gate.wait(30)
        if self.error:
            raise self.error
        return GatedSession()


def serve(
    backend: CountingBackend,
    lean: GatedSession | None = None,
    default_timeout_s: float | None = None,
) -> ServedModel:
    metrics = ModelMetrics(Metrics(CollectorRegistry()), "tiny", "1", INFO)
    limits = QueueLimits(max_batch_size=8, max_rows=100, max_bytes=10_000)
    scheduler = Scheduler(limits, metrics)
    return ServedModel(
        "tiny",
        "1",
        backend=backend,
        lean=lean or GatedSession(),
        scheduler=scheduler,
        metrics=metrics,
        default_timeout_s=default_timeout_s,
    )


def test_requests_for_the_same_layers_share_one_session() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        model = serve(backend)
        await asyncio.gather(*(model.compute(images(1), ("conv1",)) for _ in range(5)))
        await model.compute(images(1), ("conv1",))
        await model.compute(images(1), ())
        assert backend.built == [("conv1",)]
        await model.close()

    asyncio.run(scenario())


def test_plain_requests_do_not_wait_for_a_session_that_is_being_built() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.gate.clear()
        model = serve(backend)
        tapped = asyncio.create_task(model.compute(images(1), ("conv1",)))
        computed = await asyncio.wait_for(model.compute(images(2), ()), 10)
        assert computed.outputs[0].tolist() == [2]
        assert not tapped.done()
        backend.gate.set()
        await tapped
        await model.close()

    asyncio.run(scenario())


def test_a_caller_who_leaves_does_not_take_the_session_from_the_others() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.gate.clear()
        model = serve(backend)
        leaving = asyncio.create_task(model.compute(images(1), ("conv1",)))
        staying = asyncio.create_task(model.compute(images(2), ("conv1",)))
        while not backend.built:
            await asyncio.sleep(0)
        leaving.cancel()
        backend.gate.set()
        assert (await staying).outputs[0].tolist() == [2]
        assert len(backend.built) == 1
        await model.close()

    asyncio.run(scenario())


def test_a_request_without_a_deadline_gets_the_models() -> None:
    async def scenario() -> None:
        lean = GatedSession(is_open=False)
        model = serve(CountingBackend(), lean, default_timeout_s=1e-6)
        holding = asyncio.create_task(model.compute(images(1), (), deadline_s=float("inf")))
        while not lean.batches:
            await asyncio.sleep(0.001)
        waiting = asyncio.create_task(model.compute(images(2), ()))
        patient = asyncio.create_task(model.compute(images(3), (), deadline_s=float("inf")))
        await asyncio.sleep(0.001)
        lean.open()
        with pytest.raises(DeadlineExceeded):
            await waiting
        assert (await patient).outputs[0].tolist() == [3]
        await holding
        await model.close()

    asyncio.run(scenario())


def test_a_session_that_cannot_be_built_is_tried_anew_next_time() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.error = BackendFailure("out of memory")
        model = serve(backend)
        with pytest.raises(BackendFailure):
            await model.compute(images(1), ("conv1",))
        backend.error = None
        await model.compute(images(1), ("conv1",))
        assert len(backend.built) == 2
        await model.close()

    asyncio.run(scenario())


def test_the_sessions_kept_are_bounded_and_the_oldest_goes_first() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        model = serve(backend)
        sets = [(f"layer{index}",) for index in range(MAX_SESSIONS + 1)]
        for tensors in sets:
            await model.compute(images(1), tensors)
        await model.compute(images(1), sets[1])  # still there
        assert len(backend.built) == len(sets)
        await model.compute(images(1), sets[0])  # gone
        assert len(backend.built) == len(sets) + 1
        await model.close()

    asyncio.run(scenario())


def test_many_sets_of_layers_at_once_do_not_fill_the_memory() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.gate.clear()
        model = serve(backend)
        calls = [
            asyncio.create_task(model.compute(images(1), (f"layer{index}",))) for index in range(40)
        ]
        for _ in range(5):
            await asyncio.sleep(0)
        backend.gate.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        answered = [result for result in results if isinstance(result, Computed)]
        refused = [result for result in results if isinstance(result, Overloaded)]
        assert len(answered) == MAX_SESSIONS + MAX_EXTRA_SESSIONS == len(backend.built)
        assert len(answered) + len(refused) == 40
        assert {error.reason for error in refused} == {"sessions"}
        del calls, results, answered, refused
        await model.compute(images(1), ("layer39",))  # there is room again
        await model.close()

    asyncio.run(scenario())


def test_a_session_that_nobody_waits_for_any_more_is_not_built() -> None:
    async def scenario() -> None:
        backend = CountingBackend()
        backend.gate.clear()
        model = serve(backend)
        first = asyncio.create_task(model.compute(images(1), ("first",)))
        others = [
            asyncio.create_task(model.compute(images(1), (f"layer{index}",))) for index in range(5)
        ]
        while not backend.built:
            await asyncio.sleep(0)
        for task in others:
            task.cancel()
        await asyncio.wait(others)
        backend.gate.set()
        await first
        await model.compute(images(1), ("last",))
        assert backend.built == [("first",), ("last",)]
        await model.close()

    asyncio.run(scenario())


def test_onnx_runtime_refuses_a_graph_that_contradicts_itself(tmp_path: Path) -> None:
    model = tiny_model()
    model.graph.node[6].input[1] = "conv1.w"  # Gemm with a weight of four dimensions
    backend = OrtBackend(ModelFile(model), device="cpu", max_batch_size=2, thread_count=1)
    with pytest.raises((BackendFailure, ModelError), match="ONNX Runtime cannot load it") as info:
        backend.build_session(())
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("max_batch_size", [1, 2, 3, 64])
def test_onnx_runtime_computes_what_numpy_does(max_batch_size: int) -> None:
    backend = OrtBackend(
        ModelFile(tiny_model()), device="cpu", max_batch_size=max_batch_size, thread_count=1
    )
    batch = random_images(max_batch_size)
    names = ("conv1", "relu1", "pool1")
    outputs = backend.build_session(names).run(batch)
    for name, output in zip(("scores", "probabilities", *names), outputs, strict=True):
        assert output.shape == activations(batch)[name].shape
        if name != "probabilities":
            assert (output == activations(batch)[name]).all()
