import pytest

from convscope_server.errors import Overloaded, ResponseTooLarge
from convscope_server.memory_budget import MemoryBudget


def test_what_is_released_can_be_held_again() -> None:
    budget = MemoryBudget(100)
    budget.hold(60)
    budget.hold(40)
    assert budget.held_bytes == 100
    budget.release(60)
    budget.hold(60)
    assert budget.held_bytes == 100


def test_what_is_too_much_together_is_overload_and_alone_too_large() -> None:
    budget = MemoryBudget(100)
    budget.hold(60)
    with pytest.raises(Overloaded, match="need 60 of at most 100 bytes, and 41 more") as info:
        budget.hold(41)
    assert info.value.reason == "memory"
    with pytest.raises(ResponseTooLarge, match="at most 100 bytes of memory, got one for 101"):
        budget.hold(101)
    assert budget.held_bytes == 60
