"""The memory and time that a call needs, predicted from smaller calls."""

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
    """A cell that cannot be timed, such as a call that needs too much memory or time."""


def clocked(
    under_test: LossUnderTest, case: Case, device: str, clock: Clock, times: int = 3
) -> float:
    """Return the median time of some full steps by the clock's own reading, in seconds.

    Args:
        under_test: The implementation.
        case: The call.
        device: The device.
        clock: The clock of the device.
        times: The number of steps, after one that warms up.
    """
    inputs = Inputs(under_test, case, device)
    work = step(inputs.call(under_test), "full")
    taken = []
    for _ in range(times + 1):
        inputs.refill()
        taken.append(clock.measure([work])[0] / 1e9)
    return sorted(taken[1:])[times // 2]


def free_memory(device: str) -> int:
    """Return the free memory of a CUDA device, or of the machine, in bytes."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Need:
    """The predicted cost of a full step.

    Attributes:
        bytes: The peak memory in excess of the inputs, in bytes.
        seconds: The time in seconds.
    """

    bytes: float
    seconds: float


def need(
    under_test: LossUnderTest, axes: Mapping[str, int], dtype: str, device: str, clock: Clock
) -> Need:
    """Predict the cost of a full step from steps at smaller sizes.

    The smaller sizes double up to half of the wanted sizes, or until the next step would be too
    costly. In short steps the fixed cost of a call dominates, so a prediction from them alone would
    be too small.

    Args:
        under_test: The implementation.
        axes: The wanted sizes of the axes by name.
        dtype: The dtype of the real tensors.
        device: The device.
        clock: The clock of the device.

    Raises:
        TooLarge: If the implementation does not accept an argument of the call.
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


def excess(needed: Need, device: str, longest: float = LONGEST_CALL) -> float:
    """Return the ratio of a cost to what the device allows; a call with at most 1 fits.

    Args:
        needed: The cost.
        device: The device.
        longest: The longest time of a call, in seconds.
    """
    return max(needed.bytes / (MEMORY_SHARE * free_memory(device)), needed.seconds / longest)


def too_large(needed: Need) -> TooLarge:
    """Return the error for a call that needs too much memory or time."""
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
    """Return the sizes of the axes, with the batch halved until every implementation fits.

    Args:
        losses_under_test: The implementations.
        axes: The wanted sizes of the axes by name.
        batch: The name of the batch axis.
        dtype: The dtype of the real tensors.
        device: The device.
        clock: The clock of the device.

    Raises:
        TooLarge: If a batch of one sample does not fit.
    """
    found = dict(axes)
    for under_test in losses_under_test:
        needed = need(under_test, axes, dtype, device, clock)
        halvings = max(0, math.ceil(math.log2(max(excess(needed, device), 1e-9))))
        if axes[batch] >> halvings < 1:
            raise too_large(needed)
        found[batch] = min(found[batch], axes[batch] >> halvings)
    return found
