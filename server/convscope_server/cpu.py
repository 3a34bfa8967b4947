"""How many processors this process may really use."""

import math
import os
from pathlib import Path

_CGROUP_V2_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cpu_count(quota_file: Path = _CGROUP_V2_QUOTA) -> int:
    """Processors in the affinity mask, but no more than the cgroup's quota, at least 1.

    The host's core count is the wrong number in a container: ONNX Runtime reads
    it and starts threads that the quota then stalls (microsoft/onnxruntime#29510).
    """
    try:
        affinity = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity mask
        affinity = os.cpu_count() or 1
    return max(1, min(affinity, _quota_cpu_count(quota_file)))


def _quota_cpu_count(quota_file: Path) -> int:
    try:
        quota, period = quota_file.read_text().split()
    except (OSError, ValueError):  # no cgroup v2 here
        return 1 << 30
    return 1 << 30 if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
