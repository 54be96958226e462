"""The memory that a call holds at its peak."""

from __future__ import annotations

import os

import torch

from lossspec.cases.case import Case
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.inputs import Inputs, Step, step
from lossspec.execution.torch_private import allocations


def peak(work: Step, device: str) -> int:
    """The most bytes on a device that a piece of work held at once, beyond what was there before.

    From torch's profiler, which sees every allocation; the same on every run.
    """
    # Its library tells of every start and stop on the screen otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    kind = device.partition(":")[0]
    activities = [torch.profiler.ProfilerActivity.CPU]
    if kind == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(
        activities=activities, profile_memory=True, acc_events=True
    ) as seen:
        kept = [work()]  # what it returns is alive until here, and counts
    kept.clear()
    events = [event for event in allocations(seen) if event.device == kind]
    held = top = 0
    for event in sorted(events, key=lambda event: event.start):
        held += event.bytes
        top = max(top, held)
    return top


def weighed(under_test: LossUnderTest, case: Case, device: str) -> tuple[int, int]:
    """The peak of a full step, and the bytes of its inputs."""
    inputs = Inputs(under_test.loss, case, device, under_test)
    work = step(inputs.call(under_test), "full")
    inputs.refill()
    work()  # what it builds once is no part of a step
    inputs.refill()
    return peak(work, device), inputs.bytes
