import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from support.gated_session import GatedSession, Log, images

from convscope_server.batch_queue import QueueLimits
from convscope_server.batch_request import Computed
from convscope_server.errors import BackendFailure
from convscope_server.scheduler import Scheduler


@dataclass(frozen=True)
class Wish:
    """A request of a random scenario."""

    rows: int
    session: int
    pause: int  # turns of the event loop before it comes
    cancelled: bool


wishes = st.lists(
    st.builds(
        Wish,
        rows=st.integers(1, 40),
        session=st.integers(0, 3),
        pause=st.integers(0, 3),
        cancelled=st.booleans(),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=100)
@given(
    wishes=wishes,
    max_batch_size=st.integers(1, 16),
    worker_count=st.integers(1, 3),
    inline=st.booleans(),
)
def test_every_request_is_answered_once_with_its_own_rows_in_order(
    wishes: list[Wish], max_batch_size: int, worker_count: int, inline: bool
) -> None:
    # Session 3 always fails: its requests must fail, and disturb nobody else.
    sessions = [GatedSession(inline=inline), GatedSession(), GatedSession(inline=inline)]
    sessions.append(GatedSession(error=BackendFailure("planted"), inline=inline))
    log = Log()

    async def scenario() -> list[Computed | BaseException]:
        scheduler = Scheduler(
            QueueLimits(max_batch_size=max_batch_size, max_rows=10_000, max_bytes=10_000_000),
            log,
            worker_count=worker_count,
        )
        tasks = []
        for index, wish in enumerate(wishes):
            for _ in range(wish.pause):
                await asyncio.sleep(0)
            rows = images(*((index * 7 + row) % 256 for row in range(wish.rows)))
            tasks.append(asyncio.create_task(scheduler.submit(rows, sessions[wish.session])))
        await asyncio.sleep(0)  # every request has joined the queue
        for task, wish in zip(tasks, wishes, strict=True):
            if wish.cancelled:
                task.cancel()
        async with asyncio.timeout(30):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        await scheduler.close()
        return results

    results = asyncio.run(scenario())
    for index, (wish, result) in enumerate(zip(wishes, results, strict=True)):
        if isinstance(result, Computed):
            expected = [(index * 7 + row) % 256 for row in range(wish.rows)]
            assert result.outputs[0].tolist() == expected
            assert wish.session != 3
            assert -(-wish.rows // max_batch_size) <= result.batch_count <= wish.rows
        elif wish.session == 3:
            assert isinstance(result, BackendFailure | asyncio.CancelledError)
        else:
            assert isinstance(result, asyncio.CancelledError)
            assert wish.cancelled
    batches = [batch for session in sessions for batch in session.batches]
    assert all(1 <= len(batch) <= max_batch_size for batch in batches)
    # Each row was either computed or dropped, and nothing is left in the queue.
    computed_rows = sum(len(batch) for batch in batches)
    dropped_rows = sum(rows for _, rows in log.drops)
    assert computed_rows + dropped_rows == sum(wish.rows for wish in wishes)
    assert log.queue == (0, 0)
