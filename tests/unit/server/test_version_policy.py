import pytest

from convscope_server.errors import StartupError
from convscope_server.version_policy import VersionPolicy


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("latest:1", [10]),
        ("latest:2", [2, 10]),
        ("latest:99", [1, 2, 10]),
        ("all", [1, 2, 10]),
        ("specific:2,1", [1, 2]),
        ("specific:3,10", [10]),
        ("specific:4", []),
    ],
)
def test_versions_are_chosen_as_numbers(text: str, chosen: list[int]) -> None:
    assert VersionPolicy.parse(text).choose([10, 1, 2]) == chosen


@pytest.mark.parametrize(
    "text",
    ["", "latest", "latest:0", "latest:-1", "latest:1,2", "all:1", "specific:", "specific:x"],
)
def test_anything_else_is_told_what_was_expected(text: str) -> None:
    with pytest.raises(StartupError, match="latest:N, all or specific:V,V") as info:
        VersionPolicy.parse(text)
    assert repr(text) in str(info.value)
