"""The peak memory of a call."""

from __future__ import annotations

import math
import os
from functools import cache
from typing import Any

import torch

from lossspec.cases.case import Case
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.inputs import Inputs, Step, step
from lossspec.execution.torch_private import (
    allocations,
    dispatch_mode,
    storage_identity,
    tree_leaves,
)
from lossspec.thresholds import MEASURED_OPERATIONS


def peak(work: Step, device: str) -> int:
    """Return the peak of the bytes that some work allocates on a device.

    torch's profiler records every allocation, so the number is the same in every run.

    Args:
        work: The work, without arguments.
        device: The device whose memory is measured.
    """
    # Without this the profiler's library prints a line at every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    kind = device.partition(":")[0]
    activities = [torch.profiler.ProfilerActivity.CPU]
    if kind == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as seen:
        kept = [work()]  # keep the result alive, so that its memory counts
    kept.clear()
    events = [event for event in allocations(seen) if event.device == kind]
    held = top = 0
    for event in sorted(events, key=lambda event: event.start):
        held += event.bytes
        top = max(top, held)
    return top


class TooManyOperations(Exception):
    """A call runs more than `MEASURED_OPERATIONS`; to record each of them would take minutes."""


class _Made:
    """The bytes of all tensors that operations of torch make, whether or not they are freed.

    They are at least the peak memory of the operations, and cost far less to find. A mode sees the
    operations of torch in forward and in backward. It does not see the inside of an operation of
    another library.

    Attributes:
        bytes: The bytes so far.
        foreign: Whether an operation was not one of torch's own.
        left: The number of operations that may still follow.
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.bytes = 0
        self.foreign = False
        self.left = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise TooManyOperations
        made = func(*args, **(kwargs or {}))
        self.foreign |= func.namespace != "aten"
        given = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if _has_storage(leaf)}
        for leaf in tree_leaves(made):
            if _has_storage(leaf) and _storage(leaf) not in given:
                self.bytes += leaf.untyped_storage().nbytes()
        return made


def _has_storage(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided


def _storage(tensor: torch.Tensor) -> int:
    return storage_identity(tensor.untyped_storage())


@cache
def _making() -> type[Any]:
    """Return the class of modes that add up bytes, made on first use since its base is private."""
    return type("Making", (_Made, dispatch_mode()), {})


def made(work: Step, most: float = math.inf) -> int | None:
    """Return the bytes of all tensors that some work makes, which its peak memory cannot exceed.

    Args:
        work: The work, without arguments.
        most: The most operations of the work.

    Returns:
        The bytes. None if the work may allocate memory that torch does not show.

    Raises:
        TooManyOperations: The work runs more operations.
    """
    with _making()(most) as seen:
        work()
    return None if seen.foreign or not seen.bytes else int(seen.bytes)


def weighed(
    under_test: LossUnderTest, case: Case, device: str, enough: float = 0.0
) -> tuple[int, int]:
    """Return the peak memory of a call with its backward, and the size of its inputs, in bytes.

    Args:
        under_test: The implementation of the loss.
        case: The call.
        device: The device whose memory is measured.
        enough: A multiple of the inputs. If the call makes tensors of at most that size in all,
            their size is returned instead of the peak, which is never larger.

    Raises:
        TooManyOperations: `enough` is given, and the call runs too many operations.
    """
    inputs = Inputs(under_test, case, device)
    work = step(inputs.call(under_test), "full")
    inputs.refill()
    work()  # the first step may allocate memory that later ones reuse
    inputs.refill()
    total = made(work, MEASURED_OPERATIONS) if enough else None
    if total is not None and total <= enough * inputs.bytes:
        return total, inputs.bytes
    inputs.refill()
    return peak(work, device), inputs.bytes
