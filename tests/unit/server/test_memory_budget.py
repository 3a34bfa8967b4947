import pytest

from convscope_server.errors import Overloaded, ResponseTooLarge
from convscope_server.memory_budget import MemoryBudget


def test_what_is_held_is_given_back_however_it_ends() -> None:
    budget = MemoryBudget(100)
    with budget.hold(60), budget.hold(40):
        assert budget.held_bytes == 100
    with pytest.raises(KeyError), budget.hold(60):
        raise KeyError
    assert budget.held_bytes == 0


def test_what_is_too_much_together_is_overload_and_alone_too_large() -> None:
    budget = MemoryBudget(100)
    with budget.hold(60):
        with pytest.raises(Overloaded, match="need 60 of at most 100 bytes, and 41 more") as info:
            budget.hold(41).__enter__()
        assert info.value.reason == "memory"
        with pytest.raises(ResponseTooLarge, match="at most 100 bytes of memory, got one for 101"):
            budget.hold(101).__enter__()
    assert budget.held_bytes == 0
