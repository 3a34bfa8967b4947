from convscope_server.restarts import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    MAX_FAILED_STARTS,
    STEADY_AFTER_S,
    Restarts,
)


def test_the_delay_doubles_up_to_the_longest() -> None:
    restarts = Restarts()
    delays = [restarts.delay_s(lived_s=1, was_ready=True) for _ in range(2000)]
    assert delays[:4] == [FIRST_DELAY_S * factor for factor in (1, 2, 4, 8)]
    assert delays[-1] == LONGEST_DELAY_S


def test_a_worker_that_lived_long_begins_anew() -> None:
    restarts = Restarts()
    for _ in range(3):
        restarts.delay_s(lived_s=1, was_ready=True)
    assert restarts.delay_s(lived_s=STEADY_AFTER_S, was_ready=True) == FIRST_DELAY_S


def test_starts_that_fail_in_a_row_come_to_an_end() -> None:
    restarts = Restarts()
    delays = [restarts.delay_s(lived_s=1, was_ready=False) for _ in range(MAX_FAILED_STARTS)]
    assert delays[-1] is None
    assert None not in delays[:-1]


def test_a_start_that_succeeds_between_begins_the_row_anew() -> None:
    restarts = Restarts()
    for _ in range(3):
        for _ in range(MAX_FAILED_STARTS - 1):
            assert restarts.delay_s(lived_s=1, was_ready=False) is not None
        assert restarts.delay_s(lived_s=1, was_ready=True) is not None
