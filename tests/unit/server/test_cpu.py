import os
from pathlib import Path

import pytest

from convscope_server.cpu import available_cpu_count


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", None),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("garbage", None),
        ("99999999900000 100000\n", None),
    ],
)
def test_the_quota_bounds_the_affinity(tmp_path: Path, content: str, expected: int | None) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(content)
    affinity = len(os.sched_getaffinity(0))
    assert available_cpu_count(quota) == (affinity if expected is None else expected)


def test_a_quota_and_a_half_is_rounded_up(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("150000 100000\n")
    assert available_cpu_count(quota) == min(2, len(os.sched_getaffinity(0)))


def test_no_cgroup_means_the_affinity(tmp_path: Path) -> None:
    assert available_cpu_count(tmp_path / "absent") == len(os.sched_getaffinity(0))
