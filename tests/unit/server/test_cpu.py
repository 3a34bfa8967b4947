import os
from pathlib import Path

import pytest

from convscope_server.cpu import available_cpu_count

AFFINITY = len(os.sched_getaffinity(0))


def count(tmp_path: Path, ours: str, files: dict[str, str]) -> int:
    """What is counted where the control groups hold these files, and we are in ours."""
    for name, content in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    our_cgroups = tmp_path / "self"
    our_cgroups.write_text(ours)
    return available_cpu_count(tmp_path / "cgroup", our_cgroups)


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
    counted = count(tmp_path, "0::/\n", {"cpu.max": content})
    assert counted == (AFFINITY if expected is None else expected)


def test_a_quota_and_a_half_is_rounded_up(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n"}) == min(2, AFFINITY)


@pytest.mark.parametrize("where", ["system.slice", "system.slice/convscope.service"])
def test_the_quota_of_our_group_or_of_one_around_it_holds(tmp_path: Path, where: str) -> None:
    ours = "0::/system.slice/convscope.service\n"
    assert count(tmp_path, ours, {f"{where}/cpu.max": "50000 100000\n"}) == 1


def test_the_quota_of_another_group_does_not_hold(tmp_path: Path) -> None:
    ours = "0::/system.slice/convscope.service\n"
    assert count(tmp_path, ours, {"other.slice/cpu.max": "50000 100000\n"}) == AFFINITY


@pytest.mark.parametrize(
    ("quota_us", "expected"), [("-1\n", AFFINITY), ("50000\n", 1), ("150000\n", min(2, AFFINITY))]
)
@pytest.mark.parametrize("group", ["", "docker/0a1b/"])
def test_version_1_of_control_groups(
    tmp_path: Path, group: str, quota_us: str, expected: int
) -> None:
    ours = f"5:memory:/elsewhere\n4:cpu,cpuacct:/{group.rstrip('/')}\n"
    files = {
        f"cpu/{group}cpu.cfs_quota_us": quota_us,
        f"cpu/{group}cpu.cfs_period_us": "100000\n",
    }
    assert count(tmp_path, ours, files) == expected


def test_no_cgroup_means_the_affinity(tmp_path: Path) -> None:
    assert available_cpu_count(tmp_path / "absent", tmp_path / "absent") == AFFINITY
