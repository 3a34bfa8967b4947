"""The scheduler under random loads, on a clock that costs no time."""

import asyncio
import itertools
from dataclasses import dataclass, replace

from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.fake_time import FakeTimeLoop, TimedExecutor, TimedSession, numbered, run_in_fake_time
from support.gated_session import Log

from convscope_server.batch_queue import QueueLimits
from convscope_server.batch_request import Computed
from convscope_server.errors import BackendFailure, DeadlineExceeded, Overloaded
from convscope_server.scheduler import Scheduler

SESSIONS = 4  # the first is plain, the others tapped; the last one fails every batch
Answer = Computed | BaseException


@dataclass(frozen=True)
class Wish:
    """A request of a random scenario; times in seconds."""

    at_s: float
    rows: int
    session: int = 0
    priority: int = 5
    timeout_s: float | None = None
    cancelled_after_s: float | None = None


@dataclass(frozen=True)
class Setting:
    """A scheduler of a random scenario."""

    max_batch_size: int
    max_rows: int
    max_delay_s: float
    worker_count: int
    batch_s: tuple[float, ...]
    full_batch_s: float = 0.0


def milliseconds(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda value: value / 1000)


wishes = st.lists(
    st.builds(
        Wish,
        at_s=milliseconds(0, 60),
        rows=st.integers(1, 30),
        session=st.integers(0, SESSIONS - 1),
        priority=st.integers(1, 9),
        timeout_s=st.none() | milliseconds(0, 80),
        cancelled_after_s=st.none() | milliseconds(0, 80),
    ),
    min_size=1,
    max_size=25,
)
schedulers = st.builds(
    Setting,
    max_batch_size=st.integers(1, 16),
    max_rows=st.integers(30, 120),
    max_delay_s=st.sampled_from([0.0, 0.0, 0.004, 0.02]),
    worker_count=st.integers(1, 3),
    batch_s=st.tuples(*[milliseconds(1, 20)] * SESSIONS),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario."""

    answers: list[Answer]
    sessions: list[TimedSession]
    batches: list[tuple[float, float, TimedSession]]
    log: Log


def play(setting: Setting, scenario_wishes: list[Wish]) -> Outcome:
    """Send every wish at its time; the rows of wish i are numbered from 1000 x i on."""
    sessions = [TimedSession(batch_s) for batch_s in setting.batch_s]
    sessions[-1].error = BackendFailure("planted")
    log = Log()

    async def scenario(loop: FakeTimeLoop) -> Outcome:
        executor = TimedExecutor(loop)
        scheduler = Scheduler(
            QueueLimits(
                max_batch_size=setting.max_batch_size,
                max_rows=setting.max_rows,
                max_bytes=1 << 20,
                max_delay_s=setting.max_delay_s,
            ),
            log,
            worker_count=setting.worker_count,
            full_batch_s=setting.full_batch_s,
            executor=executor,
            clock=loop.time,
        )

        async def send(index: int, wish: Wish) -> Computed:
            await asyncio.sleep(wish.at_s)
            return await scheduler.submit(
                numbered(1000 * index, wish.rows),
                sessions[wish.session],
                tapped=wish.session > 0,
                priority=wish.priority,
                deadline_s=None if wish.timeout_s is None else loop.time() + wish.timeout_s,
            )

        tasks = [
            asyncio.create_task(send(index, wish)) for index, wish in enumerate(scenario_wishes)
        ]
        for task, wish in zip(tasks, scenario_wishes, strict=True):
            if wish.cancelled_after_s is not None:
                loop.call_later(wish.at_s + wish.cancelled_after_s, task.cancel)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await scheduler.close()
        return Outcome(list(answers), sessions, executor.started, log)

    return run_in_fake_time(scenario)


@settings(deadline=None, max_examples=300)
@given(setting=schedulers, scenario_wishes=wishes)
def test_nothing_is_lost_mixed_up_late_or_too_large(
    setting: Setting, scenario_wishes: list[Wish]
) -> None:
    outcome = play(setting, scenario_wishes)

    starts = {row: at_s for session in outcome.sessions for row, at_s in session.starts}
    assert len(starts) == sum(len(session.starts) for session in outcome.sessions)  # once each
    for index, (wish, answer) in enumerate(zip(scenario_wishes, outcome.answers, strict=True)):
        rows = range(1000 * index, 1000 * index + wish.rows)
        started = [starts[row] for row in rows if row in starts]
        if isinstance(answer, Computed):
            assert answer.outputs[0].tolist() == list(rows)
            assert wish.session != SESSIONS - 1
            assert answer.batch_size <= setting.max_batch_size
            assert -(-wish.rows // setting.max_batch_size) <= answer.batch_count <= wish.rows
            assert abs(answer.queue_s - (max(started) - wish.at_s)) < 1e-6
        elif isinstance(answer, Overloaded):
            assert started == []
            assert answer.retry_after_ms >= 1
        elif isinstance(answer, DeadlineExceeded):
            assert wish.timeout_s is not None
            assert len(started) < wish.rows
        elif isinstance(answer, asyncio.CancelledError):
            assert wish.cancelled_after_s is not None
        else:
            assert isinstance(answer, BackendFailure)
            assert wish.session == SESSIONS - 1
        if wish.timeout_s is not None:  # no work that nobody waits for
            assert all(at_s < wish.at_s + wish.timeout_s for at_s in started)
    for session in outcome.sessions:
        assert all(1 <= len(batch) <= setting.max_batch_size for batch in session.batches)
    assert outcome.log.queue == (0, 0)
    assert outcome.log.largest_queue_rows <= setting.max_rows
    taken_or_dropped = len(starts) + sum(rows for _, rows in outcome.log.drops)
    refused = sum(
        wish.rows
        for wish, answer in zip(scenario_wishes, outcome.answers, strict=True)
        if isinstance(answer, Overloaded)
        or (isinstance(answer, DeadlineExceeded) and wish.timeout_s == 0)
    )
    never_sent = sum(
        wish.rows
        for index, (wish, answer) in enumerate(zip(scenario_wishes, outcome.answers, strict=True))
        if isinstance(answer, asyncio.CancelledError) and wish.cancelled_after_s == 0
        if 1000 * index not in starts
    )
    everything = sum(wish.rows for wish in scenario_wishes)
    # A request that is cancelled in the moment in which it is sent may not have joined.
    assert everything - refused - never_sent <= taken_or_dropped <= everything - refused


@settings(deadline=None, max_examples=300)
@given(setting=schedulers, scenario_wishes=wishes)
def test_no_worker_rests_while_rows_wait_unless_told_to(
    setting: Setting, scenario_wishes: list[Wish]
) -> None:
    outcome = play(setting, scenario_wishes)

    for wish, answer in zip(scenario_wishes, outcome.answers, strict=True):
        if not isinstance(answer, Computed):
            continue
        idle_s = _idle_s(
            outcome.batches, setting.worker_count, wish.at_s, wish.at_s + answer.queue_s
        )
        assert idle_s <= setting.max_delay_s + 1e-6


def _idle_s(
    batches: list[tuple[float, float, TimedSession]], workers: int, start_s: float, end_s: float
) -> float:
    """How long a worker had nothing to do between two times."""
    times = sorted(
        {start_s, end_s}
        | {at_s for batch in batches for at_s in batch[:2] if start_s < at_s < end_s}
    )
    return sum(
        after_s - before_s
        for before_s, after_s in itertools.pairwise(times)
        if sum(start <= before_s + 1e-7 and end >= after_s - 1e-7 for start, end, _ in batches)
        < workers
    )


crowds = st.lists(
    st.builds(
        Wish,
        at_s=milliseconds(0, 20),
        rows=st.integers(1, 30),
        session=st.integers(0, SESSIONS - 2),
        priority=st.integers(1, 9),
    ),
    min_size=5,
    max_size=25,
)


def evenly(batch_s: float, max_batch_size: int, worker_count: int) -> Setting:
    """A scheduler that knows what every batch takes."""
    return Setting(max_batch_size, 10_000, 0.0, worker_count, (batch_s,) * SESSIONS, batch_s)


@settings(deadline=None, max_examples=500)
@given(
    setting=st.builds(evenly, milliseconds(5, 20), st.integers(1, 8), st.integers(1, 3)),
    crowd=crowds,
    hasty=st.builds(
        Wish,
        at_s=milliseconds(10, 30),
        rows=st.just(1),
        session=st.integers(0, SESSIONS - 2),
        priority=st.integers(1, 9),
        timeout_s=milliseconds(1, 200),
    ),
)
def test_whoever_is_refused_for_the_wait_would_have_been_too_late(
    setting: Setting, crowd: list[Wish], hasty: Wish
) -> None:
    *_, answer = play(setting, [*crowd, hasty]).answers
    refused = isinstance(answer, Overloaded) and answer.reason == "predicted_wait"
    event(f"refused: {refused}")
    if not refused:
        return

    *_, patient = play(setting, [*crowd, replace(hasty, timeout_s=None)]).answers

    assert hasty.timeout_s is not None
    assert isinstance(patient, Computed)
    assert patient.queue_s >= hasty.timeout_s - 1e-6
