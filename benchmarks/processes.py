"""What a process and all that it started use: processor time, memory. Linux only."""

import contextlib
from collections import Counter
from pathlib import Path

_PROC = Path("/proc")


def tree(process_id: int) -> list[int]:
    """The process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [process_id]
    for each in found:
        found.extend(children.get(each, []))
    return found


def thread_ns(process_id: int) -> Counter[str]:
    """Processor time that the tree's threads have used so far, by their names and numbers."""
    used_ns: Counter[str] = Counter()
    for member in tree(process_id):
        for task in _PROC.glob(f"{member}/task/*"):
            with contextlib.suppress(OSError):
                name = f"{(task / 'comm').read_text().strip()} {task.name}"
                used_ns[name] += int((task / "schedstat").read_text().split()[0])
    return used_ns


def processor_seconds(process_id: int) -> float:
    """Processor time that the tree has used so far; of threads that have ended, none."""
    return thread_ns(process_id).total() / 1e9


def resident_bytes(process_id: int) -> int:
    """Proportional set size of the tree: what processes share counts once."""
    total = 0
    for member in tree(process_id):
        with contextlib.suppress(OSError):
            for line in (_PROC / str(member) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
    return total
