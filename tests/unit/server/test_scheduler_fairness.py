"""Who goes before whom, in fake time: every batch takes as long as its session says."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.fake_time import FakeTimeLoop, TimedExecutor, TimedSession, numbered, run_in_fake_time
from support.gated_session import GatedSession, Log, images

from convscope_server.batch_queue import QueueLimits
from convscope_server.errors import BackendFailure, Overloaded
from convscope_server.lane import LEVEL_S
from convscope_server.scheduler import Scheduler

Scenario = Callable[[FakeTimeLoop, Scheduler], Coroutine[Any, Any, None]]


def play(scenario: Scenario, *, max_delay_s: float = 0.0, full_batch_s: float = 0.0) -> Log:
    """Run a scenario with one worker and batches of eight."""
    log = Log()

    async def whole(loop: FakeTimeLoop) -> None:
        scheduler = Scheduler(
            QueueLimits(
                max_batch_size=8, max_rows=10_000, max_bytes=1 << 20, max_delay_s=max_delay_s
            ),
            log,
            executor=TimedExecutor(loop),
            full_batch_s=full_batch_s,
            clock=loop.time,
        )
        await scenario(loop, scheduler)
        await scheduler.close()

    run_in_fake_time(whole)
    return log


async def flood(scheduler: Scheduler, session: Any, seconds: int, **settings: Any) -> None:
    """Eight new rows every 10 ms, from several callers, until the time is over."""
    async with asyncio.TaskGroup() as calls:
        for _ in range(seconds * 100):
            calls.create_task(scheduler.submit(numbered(0, 8), session, **settings))
            await asyncio.sleep(0.01)


def test_a_flood_of_tapped_requests_leaves_plain_ones_half_of_the_time() -> None:
    plain, tapped = TimedSession(0.01), [TimedSession(0.05) for _ in range(4)]

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        floods = [
            asyncio.create_task(flood(scheduler, session, 10, tapped=True)) for session in tapped
        ]
        waits = []
        await asyncio.sleep(1)  # long queues of tapped requests by now
        while loop.time() < 9:
            computed = await scheduler.submit(images(1), plain)
            waits.append(computed.queue_s)
        # Never more than the one batch that was running, of 50 ms.
        assert max(waits) <= 0.05 + 1e-6
        assert len(waits) >= 8 / (0.05 + 0.01) - 1
        for task in floods:
            task.cancel()
        await asyncio.wait(floods)

    play(scenario)


def test_a_rare_set_of_layers_does_not_starve_beside_busy_ones() -> None:
    plain, busy, rare = TimedSession(0.01), TimedSession(0.02), TimedSession(0.02)

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        floods = [
            asyncio.create_task(flood(scheduler, plain, 5)),
            asyncio.create_task(flood(scheduler, busy, 5, tapped=True)),
        ]
        await asyncio.sleep(0.2)
        computed = await scheduler.submit(numbered(0, 1), rare, tapped=True)
        # Before it: tapped requests that came earlier, each with as much plain time.
        assert computed.queue_s < 1
        assert not any(task.done() for task in floods)
        for task in floods:
            task.cancel()
        await asyncio.wait(floods)

    play(scenario)


def test_a_session_that_fails_at_once_does_not_keep_others_from_their_share() -> None:
    plain = TimedSession(0.01)
    broken = TimedSession(0.0, error=BackendFailure("planted"))

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        failing = [
            asyncio.create_task(scheduler.submit(numbered(0, 8), broken, tapped=True))
            for _ in range(100)
        ]
        computed = await scheduler.submit(images(1), plain)
        assert computed.batch_count == 1
        results = await asyncio.gather(*failing, return_exceptions=True)
        assert {type(result) for result in results} == {BackendFailure}

    play(scenario)


def test_urgent_requests_pass_and_patient_ones_wait_a_second_a_level_at_most() -> None:
    session = TimedSession(0.01)

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        flooding = asyncio.create_task(flood(scheduler, session, 12, priority=5))
        more = asyncio.create_task(flood(scheduler, session, 12, priority=5))  # twice too much
        await asyncio.sleep(1)
        urgent = await scheduler.submit(images(1), session, priority=1)
        assert urgent.queue_s <= 0.01 + 1e-6  # the batch that ran
        equal = asyncio.create_task(scheduler.submit(images(1), session, priority=5))
        patient = asyncio.create_task(scheduler.submit(images(1), session, priority=6))
        equal_s, patient_s = (await equal).queue_s, (await patient).queue_s
        assert 0.1 < equal_s < patient_s
        # As if it had come one level later: all that came in that second goes before it.
        assert patient_s <= equal_s + 2 * LEVEL_S + 0.1
        for task in (flooding, more):
            task.cancel()
        await asyncio.wait((flooding, more))

    play(scenario)


def test_a_batch_that_is_not_full_waits_for_more_as_long_as_it_is_told() -> None:
    session = TimedSession(0.001)

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        first = asyncio.create_task(scheduler.submit(numbered(0, 1), session))
        await asyncio.sleep(0.004)
        second = asyncio.create_task(scheduler.submit(numbered(1, 2), session))
        results = await asyncio.gather(first, second)
        assert session.batches == [[0, 1, 2]]
        assert [round(result.queue_s, 6) for result in results] == [0.01, 0.006]

    log = play(scenario, max_delay_s=0.01)
    assert log.cut_reasons == ["delay"]


def test_a_full_batch_does_not_wait_for_more() -> None:
    session = TimedSession(0.001)

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        computed = await scheduler.submit(numbered(0, 8), session)
        assert computed.queue_s == 0

    log = play(scenario, max_delay_s=0.01)
    assert log.cut_reasons == ["full"]


def test_waiting_for_more_ends_early_enough_for_the_first_deadline() -> None:
    session = TimedSession(0.002)

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        computed = await scheduler.submit(numbered(0, 1), session, deadline_s=0.006)
        assert computed.queue_s == pytest.approx(0.004)

    play(scenario, max_delay_s=0.1, full_batch_s=0.002)


def test_a_request_that_would_wait_past_its_deadline_is_refused_with_a_hint() -> None:
    session = TimedSession(0.1)

    async def scenario(loop: FakeTimeLoop, scheduler: Scheduler) -> None:
        crowd = asyncio.create_task(scheduler.submit(numbered(0, 80), session))
        await asyncio.sleep(0.01)  # one batch runs, nine wait
        with pytest.raises(Overloaded, match="at least 900 ms, and the deadline is in 500") as info:
            await scheduler.submit(images(1), session, deadline_s=loop.time() + 0.5)
        assert info.value.reason == "predicted_wait"
        assert info.value.retry_after_ms == 400
        with pytest.raises(Overloaded):  # the same before anything is decoded
            scheduler.check_room(1, 3, session, deadline_s=loop.time() + 0.5)
        in_time = await scheduler.submit(images(1), session, deadline_s=loop.time() + 1.5)
        assert in_time.queue_s > 0.9
        urgent = scheduler.submit(images(2), session, priority=1, deadline_s=loop.time() + 0.5)
        await urgent  # those that wait are not before it
        await crowd

    play(scenario, full_batch_s=0.1)


def test_two_models_on_one_event_loop_take_turns() -> None:
    async def scenario() -> None:
        busy, calm = GatedSession(inline=True), GatedSession(inline=True)
        limits = QueueLimits(max_batch_size=8, max_rows=10_000, max_bytes=1 << 20)
        first, second = (Scheduler(limits, Log()) for _ in range(2))
        crowd = asyncio.create_task(first.submit(images(*([0] * 800)), busy))
        await asyncio.sleep(0)
        await second.submit(images(1), calm)
        assert len(busy.batches) <= 3
        await crowd
        assert len(busy.batches) == 100
        await first.close()
        await second.close()

    asyncio.run(scenario())


def test_a_model_whose_batch_hangs_holds_up_no_other() -> None:
    async def scenario() -> None:
        hanging, calm = GatedSession(is_open=False), GatedSession()
        limits = QueueLimits(max_batch_size=8, max_rows=10_000, max_bytes=1 << 20)
        first, second = (Scheduler(limits, Log()) for _ in range(2))
        stuck = asyncio.create_task(first.submit(images(1), hanging))
        for value in range(20):
            await second.submit(images(value), calm)
        assert not stuck.done()
        hanging.open()
        await stuck
        await first.close()
        await second.close()

    asyncio.run(scenario())
