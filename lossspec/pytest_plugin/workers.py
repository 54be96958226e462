"""How many workers `-n auto` starts: as many as there are cores, and memory for."""

from __future__ import annotations

import os
from pathlib import Path

#: What a worker needs at most, in bytes: torch with its compiler, and a large batch of cases.
NEEDS = 1 << 30
#: Limits of a container that are no limits: kernels write huge numbers for "unlimited".
_NO_LIMIT = 1 << 60
_CGROUPS, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


def automatic() -> int:
    """Return the number of workers for this machine, or for the container that this is in."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota, memory = _quota(_CGROUPS), _free_memory(_CGROUPS, _MEMINFO)
    if quota is not None:
        cores = min(cores, max(1, round(quota)))
    if memory is not None:
        cores = min(cores, memory // NEEDS)
    return max(1, cores)


def _quota(groups: Path) -> float | None:
    """Return the cores that a container may use, of version 2 or 1 of control groups."""
    words = _text(groups / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota = _number(groups / "cpu" / "cpu.cfs_quota_us")
    period = _number(groups / "cpu" / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _free_memory(groups: Path, meminfo: Path) -> int | None:
    """Return the bytes that are free, of the machine or of the container, whichever is less."""
    free = []
    for line in _text(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            free.append(int(line.split()[1]) << 10)
    version_1 = groups / "memory"
    for folder, limit, used, cache in (
        (groups, "memory.max", "memory.current", "inactive_file"),
        (version_1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        bound, taken = _number(folder / limit), _number(folder / used)
        if bound is not None and taken is not None and bound < _NO_LIMIT:
            counts = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            # Pages of files that nobody uses are given up when memory is short.
            free.append(max(0, bound - taken + int(counts.get(cache, 0))))
    return min(free) if free else None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.removeprefix("-").isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
