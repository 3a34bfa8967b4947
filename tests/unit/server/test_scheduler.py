import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.gated_session import GatedSession, Log, images

from convscope_server.batch_queue import QueueLimits
from convscope_server.batch_request import Computed
from convscope_server.errors import (
    BackendFailure,
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    Overloaded,
)
from convscope_server.scheduler import Scheduler


def new_scheduler(log: Log | None = None, **settings: Any) -> Scheduler:
    limits: dict[str, Any] = {"max_batch_size": 8, "max_rows": 100, "max_bytes": 10_000}
    for name in ("max_batch_size", "max_rows", "max_bytes", "max_delay_s"):
        if name in settings:
            limits[name] = settings.pop(name)
    return Scheduler(QueueLimits(**limits), log or Log(), **settings)


@asynccontextmanager
async def scheduling(log: Log | None = None, **settings: Any) -> AsyncIterator[Scheduler]:
    scheduler = new_scheduler(log, **settings)
    try:
        yield scheduler
    finally:
        await scheduler.close()


async def until_waiting(log: Log, rows: int) -> None:
    async with asyncio.timeout(10):
        while log.queue[0] != rows:
            await asyncio.sleep(0)


def values(computed: Computed) -> list[float]:
    first, second = computed.outputs
    assert (first == -second[:, 0]).all()
    return [float(value) for value in first]


def test_a_lone_request_is_computed_at_once() -> None:
    async def scenario() -> None:
        async with scheduling() as scheduler:
            computed = await scheduler.submit(images(7, 3), GatedSession())
            assert values(computed) == [7, 3]
            assert (computed.batch_size, computed.batch_count) == (2, 1)

    asyncio.run(scenario())


def test_a_batch_holds_all_that_waits_when_the_worker_is_free() -> None:
    async def scenario() -> None:
        log, session = Log(), GatedSession(is_open=False)
        async with scheduling(log) as scheduler:
            first = asyncio.create_task(scheduler.submit(images(1), session))
            await until_waiting(log, 0)
            await asyncio.sleep(0)
            others = [
                asyncio.create_task(scheduler.submit(images(value), session)) for value in (2, 3, 4)
            ]
            await until_waiting(log, 3)
            session.open()
            results = await asyncio.gather(first, *others)
        assert session.batches == [[1], [2, 3, 4]]
        assert [values(result) for result in results] == [[1], [2], [3], [4]]
        assert [result.batch_size for result in results] == [1, 3, 3, 3]
        assert log.batch_sizes == [1, 3]

    asyncio.run(scenario())


def test_a_request_larger_than_a_batch_is_split_and_comes_back_in_order() -> None:
    async def scenario() -> None:
        session = GatedSession()
        async with scheduling() as scheduler:
            computed = await scheduler.submit(images(*range(20)), session)
        assert values(computed) == list(range(20))
        assert [len(batch) for batch in session.batches] == [8, 8, 4]
        assert (computed.batch_size, computed.batch_count) == (8, 3)

    asyncio.run(scenario())


def test_inline_batches_hold_all_that_came_in_the_same_turn_of_the_event_loop() -> None:
    async def scenario() -> None:
        session, other = GatedSession(inline=True), GatedSession(inline=True)
        async with scheduling() as scheduler:
            results = await asyncio.gather(
                *(scheduler.submit(images(value), session) for value in range(10)),
                scheduler.submit(images(20), other),
            )
        assert session.batches == [list(range(8)), [8, 9]]
        assert other.batches == [[20]]
        assert [values(result) for result in results] == [[value] for value in range(10)] + [[20]]

    asyncio.run(scenario())


def test_the_event_loop_turns_between_inline_batches() -> None:
    async def scenario() -> None:
        session = GatedSession(inline=True)
        async with scheduling() as scheduler:
            long = asyncio.create_task(scheduler.submit(images(*range(80)), session))
            turns = 0
            while not long.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns >= 10
            assert values(await long) == list(range(80))

    asyncio.run(scenario())


def test_an_inline_batch_that_fails_fails_only_its_requests() -> None:
    async def scenario() -> None:
        bad = GatedSession(error=ValueError("a defect"), inline=True)
        good = GatedSession(inline=True)
        async with scheduling() as scheduler:
            results = await asyncio.gather(
                scheduler.submit(images(1), bad),
                scheduler.submit(images(2), good),
                return_exceptions=True,
            )
        assert isinstance(results[0], BackendFailure)
        assert "defect" not in str(results[0])  # that is for the log
        assert isinstance(results[1], Computed)

    asyncio.run(scenario())


def test_inline_batches_go_on_while_a_thread_computes_another_session() -> None:
    async def scenario() -> None:
        slow, quick = GatedSession(is_open=False), GatedSession(inline=True)
        async with scheduling() as scheduler:
            waiting = [
                asyncio.create_task(scheduler.submit(images(value), slow, tapped=True))
                for value in range(2)
            ]
            await asyncio.sleep(0)
            for value in range(20):
                await scheduler.submit(images(value), quick)
            assert not any(task.done() for task in waiting)
            slow.open()
            await asyncio.gather(*waiting)

    asyncio.run(scenario())


def test_several_workers_may_finish_in_any_order() -> None:
    async def scenario() -> None:
        session = GatedSession()
        async with scheduling(worker_count=4, max_batch_size=1) as scheduler:
            computed = await scheduler.submit(images(*range(50)), session)
        assert values(computed) == list(range(50))

    asyncio.run(scenario())


def test_requests_for_another_session_do_not_share_a_batch_and_are_served_in_turn() -> None:
    async def scenario() -> None:
        log = Log()
        lean, tapped = GatedSession(is_open=False), GatedSession()
        async with scheduling(log) as scheduler:
            tasks = [asyncio.create_task(scheduler.submit(images(0), lean))]
            await until_waiting(log, 0)
            await asyncio.sleep(0)
            for value, session in ((1, lean), (2, tapped), (3, lean), (4, tapped)):
                tasks.append(asyncio.create_task(scheduler.submit(images(value), session)))
            await until_waiting(log, 4)
            lean.open()
            results = await asyncio.gather(*tasks)
        assert lean.batches == [[0], [1, 3]]
        assert tapped.batches == [[2, 4]]
        assert [values(result) for result in results] == [[0], [1], [2], [3], [4]]

    asyncio.run(scenario())


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def scenario() -> None:
        log, session = Log(), GatedSession(is_open=False)
        async with scheduling(log, max_rows=4) as scheduler:
            running = asyncio.create_task(scheduler.submit(images(1), session))
            await until_waiting(log, 0)
            await asyncio.sleep(0)
            waiting = asyncio.create_task(scheduler.submit(images(2, 3, 4), session))
            await until_waiting(log, 3)
            with pytest.raises(Overloaded, match="3 images of at most 4 wait, and 2 more") as info:
                await scheduler.submit(images(5, 6), session)
            assert info.value.retry_after_ms >= 1
            session.open()
            assert values(await running) == [1]
            assert values(await waiting) == [2, 3, 4]

    asyncio.run(scenario())


def test_the_queue_is_bounded_in_bytes_too() -> None:
    async def scenario() -> None:
        log, session = Log(), GatedSession(is_open=False)
        async with scheduling(log, max_bytes=9) as scheduler:
            running = asyncio.create_task(scheduler.submit(images(1), session))
            await until_waiting(log, 0)
            await asyncio.sleep(0)
            waiting = asyncio.create_task(scheduler.submit(images(2, 3), session))
            await until_waiting(log, 2)
            with pytest.raises(Overloaded):
                await scheduler.submit(images(4, 5), session)
            session.open()
            await asyncio.gather(running, waiting)

    asyncio.run(scenario())


def test_a_request_that_can_never_fit_is_invalid_not_overload() -> None:
    async def scenario() -> None:
        async with scheduling(max_rows=4) as scheduler:
            with pytest.raises(InvalidRequest, match=r"at most 4 images .* got 5 images"):
                await scheduler.submit(images(*range(5)), GatedSession())

    asyncio.run(scenario())


def test_a_request_whose_deadline_passed_in_the_queue_never_runs() -> None:
    async def scenario() -> None:
        now_s = 100.0
        log, session = Log(), GatedSession(is_open=False)
        async with scheduling(log, clock=lambda: now_s) as scheduler:
            running = asyncio.create_task(scheduler.submit(images(1), session))
            await until_waiting(log, 0)
            await asyncio.sleep(0)
            late = asyncio.create_task(scheduler.submit(images(2), session, deadline_s=101.0))
            patient = asyncio.create_task(scheduler.submit(images(3), session, deadline_s=102.0))
            await until_waiting(log, 2)
            now_s = 101.0
            session.open()
            with pytest.raises(DeadlineExceeded):
                await late
            assert values(await patient) == [3]
            await running
        assert session.batches == [[1], [3]]
        assert log.drops == [("deadline", 1)]
        assert log.queue == (0, 0)

    asyncio.run(scenario())


def test_a_cancelled_request_leaves_the_queue_and_frees_its_room() -> None:
    async def scenario() -> None:
        log, session = Log(), GatedSession(is_open=False)
        async with scheduling(log, max_rows=2) as scheduler:
            running = asyncio.create_task(scheduler.submit(images(1), session))
            await until_waiting(log, 0)
            await asyncio.sleep(0)
            leaving = asyncio.create_task(scheduler.submit(images(2, 3), session))
            await until_waiting(log, 2)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert log.queue == (0, 0)
            staying = asyncio.create_task(scheduler.submit(images(4, 5), session))
            await until_waiting(log, 2)
            session.open()
            assert values(await staying) == [4, 5]
            await running
        assert leaving.cancelled()
        assert session.batches == [[1], [4, 5]]
        assert log.drops == [("cancelled", 2)]

    asyncio.run(scenario())


def test_a_failing_batch_fails_its_requests_and_no_others() -> None:
    async def scenario() -> None:
        bad, good = GatedSession(error=BackendFailure("out of memory")), GatedSession()
        async with scheduling(max_batch_size=2) as scheduler:
            results = await asyncio.gather(
                scheduler.submit(images(1, 2, 3), bad),
                scheduler.submit(images(4), good),
                return_exceptions=True,
            )
        assert isinstance(results[0], BackendFailure)
        assert isinstance(results[1], Computed)
        assert bad.batches == [[1, 2]]  # its third row was not worth computing any more

    asyncio.run(scenario())


def test_closing_fails_what_waits_and_finishes_what_runs() -> None:
    async def scenario() -> None:
        log, session = Log(), GatedSession(is_open=False)
        scheduler = new_scheduler(log)
        running = asyncio.create_task(scheduler.submit(images(1), session))
        await until_waiting(log, 0)
        await asyncio.sleep(0)
        waiting = asyncio.create_task(scheduler.submit(images(2), session))
        await until_waiting(log, 1)
        closing = asyncio.create_task(scheduler.close())
        with pytest.raises(NotReady):
            await waiting
        session.open()
        assert values(await running) == [1]
        await closing
        with pytest.raises(NotReady):
            await scheduler.submit(images(3), session)

    asyncio.run(scenario())
