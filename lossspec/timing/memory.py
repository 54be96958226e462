"""Memory and time that a call needs, predicted from smaller calls."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lossspec.cases.case import Case
from lossspec.cases.workloads import workload
from lossspec.execution.call import unsupported_argument
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.inputs import Inputs, step
from lossspec.execution.memory import weighed
from lossspec.thresholds import LONGEST_CALL, MEMORY_SHARE
from lossspec.timing.clocks import Clock
from lossspec.timing.statistics import foreseen


class TooLarge(Exception):
    """A call that this machine has not the memory or the patience for; says what it would take."""


def clocked(
    under_test: LossUnderTest, case: Case, device: str, clock: Clock, times: int = 3
) -> float:
    """The median seconds of a few full steps, on the clock's own reading."""
    inputs = Inputs(under_test.loss, case, device, under_test)
    work = step(inputs.call(under_test), "full")
    taken = []
    for _ in range(times + 1):
        inputs.refill()
        taken.append(clock.measure([work])[0] / 1e9)
    return sorted(taken[1:])[times // 2]


def free_memory(device: str) -> int:
    """Bytes that a device, or the machine, has to spare."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Need:
    """What a full step is expected to take: bytes beyond its inputs, and seconds."""

    bytes: float
    seconds: float


def need(
    under_test: LossUnderTest, axes: Mapping[str, int], dtype: str, device: str, clock: Clock
) -> Need:
    """What a step at these sizes will take, going by smaller ones.

    They grow up to half, or until a step takes too long: going far on from short steps, in which
    the cost of a call still counts, would foresee too little. TooLarge if it lacks what
    the call passes.
    """
    sizes: list[float] = []
    bytes_: list[float] = []
    taken: list[float] = []
    for scale in (32, 16, 8, 4, 2):
        small = {axis: max(1, size // scale) for axis, size in axes.items()}
        case = workload(under_test.loss, small, dtype, 0)
        missing = unsupported_argument(under_test, case)
        if missing is not None:
            raise TooLarge(f"it takes no {missing}")
        sizes.append(1 / scale)
        bytes_.append(weighed(under_test, case, device)[0])
        taken.append(1e9 * clocked(under_test, case, device, clock))
        if len(sizes) > 1 and (
            taken[-1] > 1e9 * LONGEST_CALL
            or foreseen(sizes, bytes_, 2 / scale) > MEMORY_SHARE * free_memory(device)
        ):
            break
    return Need(foreseen(sizes, bytes_, 1.0), foreseen(sizes, taken, 1.0) / 1e9)


def excess(needed: Need, device: str, patience: float = LONGEST_CALL) -> float:
    """How many times over a need is what the device has to spare; at most 1 will do."""
    return max(needed.bytes / (MEMORY_SHARE * free_memory(device)), needed.seconds / patience)


def too_large(needed: Need) -> TooLarge:
    """The error that says what is needed."""
    return TooLarge(
        f"not run: a call needs about {needed.bytes / 2**30:.2g} GiB and {needed.seconds:.2g} s"
    )


def fitted(
    losses_under_test: Sequence[LossUnderTest],
    axes: Mapping[str, int],
    batch: str,
    dtype: str,
    device: str,
    clock: Clock,
) -> dict[str, int]:
    """Halve the batch as often as it takes for every implementation to be affordable.

    TooLarge where that leaves less than one sample.
    """
    found = dict(axes)
    for under_test in losses_under_test:
        needed = need(under_test, axes, dtype, device, clock)
        halvings = max(0, math.ceil(math.log2(max(excess(needed, device), 1e-9))))
        if axes[batch] >> halvings < 1:
            raise too_large(needed)
        found[batch] = min(found[batch], axes[batch] >> halvings)
    return found
