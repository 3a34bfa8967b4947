"""How many processors this process may really use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OUR_CGROUPS = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 30


def available_cpu_count(cgroups: Path = _CGROUPS, our_cgroups: Path = _OUR_CGROUPS) -> int:
    """Processors in the affinity mask, but no more than the cgroups' quota, at least 1.

    The host's core count is the wrong number in a container: ONNX Runtime reads
    it and starts threads that the quota then stalls (microsoft/onnxruntime#29510).

    Args:
        cgroups: Where the control groups are mounted, version 1, 2 or both.
        our_cgroups: The file that tells which of them this process is in.
    """
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity mask
        affinity = os.cpu_count() or 1
    quotas = [_quota_cpu_count(folder) for folder in _cpu_folders(cgroups, our_cgroups)]
    return max(1, min([affinity, *quotas]))


def _cpu_folders(cgroups: Path, our_cgroups: Path) -> Iterator[Path]:
    """The folders of our control groups and of those around them: the least quota holds."""
    try:
        lines = our_cgroups.read_text().splitlines()
    except OSError:
        lines = []
    # A container may see its own group as the root of all, and yet read its path on the host.
    paths = {(cgroups, PurePosixPath("/")), (cgroups / "cpu", PurePosixPath("/"))}
    for line in lines:
        # https://man7.org/linux/man-pages/man7/cgroups.7.html: "0::/path" is version 2's.
        _, controllers, group = line.split(":", 2)
        if not controllers:
            paths.add((cgroups, PurePosixPath(group)))
        elif "cpu" in controllers.split(","):
            paths.add((cgroups / "cpu", PurePosixPath(group)))
    for root, path in paths:
        for ancestor in (path, *path.parents):
            yield root / ancestor.relative_to("/")


def _quota_cpu_count(folder: Path) -> int:
    return min(
        _count(folder, "cpu.max"),
        _count(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us"),
    )


def _count(folder: Path, *names: str) -> int:
    try:
        quota, period = " ".join((folder / name).read_text() for name in names).split()
        # Version 2 says "max" and version 1 says -1 where there is no quota.
        limited = quota != "max" and int(quota) > 0
        return max(1, math.ceil(int(quota) / int(period))) if limited else _UNLIMITED
    except (OSError, ValueError):  # no such group here
        return _UNLIMITED
