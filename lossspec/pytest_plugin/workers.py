"""The number of workers that `-n auto` starts, limited by the cores and by the memory."""

from __future__ import annotations

import os
from pathlib import Path

#: The most memory that a worker needs, in bytes: torch with its compiler, and a large batch.
NEEDS = 1 << 30
#: Memory limits from this many bytes mean "unlimited": Linux writes a huge number for that.
_NO_LIMIT = 1 << 60
_CGROUPS, _MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/meminfo")


def automatic() -> int:
    """Return the number of workers for this machine or container."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota, memory = _quota(_CGROUPS), _free_memory(_CGROUPS, _MEMINFO)
    if quota is not None:
        cores = min(cores, max(1, round(quota)))
    if memory is not None:
        cores = min(cores, memory // NEEDS)
    return max(1, cores)


def _quota(groups: Path) -> float | None:
    """Return how many cores the container may use, from control groups of version 2 or 1."""
    words = _text(groups / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    quota = _number(groups / "cpu" / "cpu.cfs_quota_us")
    period = _number(groups / "cpu" / "cpu.cfs_period_us")
    return quota / period if quota is not None and quota > 0 and period else None


def _free_memory(groups: Path, meminfo: Path) -> int | None:
    """Return the free memory of the machine or of the container, the smaller one, in bytes."""
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
            # The kernel frees inactive pages of files when memory is short.
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
