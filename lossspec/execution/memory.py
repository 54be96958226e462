"""The peak memory of a call."""

from __future__ import annotations

import os

import torch

from lossspec.cases.case import Case
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.inputs import Inputs, Step, step
from lossspec.execution.torch_private import allocations


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


def weighed(under_test: LossUnderTest, case: Case, device: str) -> tuple[int, int]:
    """Return the peak memory of a call with its backward, and the size of its inputs, in bytes."""
    inputs = Inputs(under_test.loss, case, device, under_test)
    work = step(inputs.call(under_test), "full")
    inputs.refill()
    work()  # the first step may allocate memory that later ones reuse
    inputs.refill()
    return peak(work, device), inputs.bytes
