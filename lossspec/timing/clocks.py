"""Clocks that time a block of calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch

from lossspec.execution.inputs import Step
from lossspec.execution.torch_private import occupy

Own = Literal["cpu", "device", "wall"]


class Clock(Protocol):
    """What times a block of calls. own : what its first reading counts."""

    own: Own

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Nanoseconds on the own clock and on the wall, and what the calls returned."""

    def rate(self) -> float | None:
        """The device's present clock rate, None where it cannot be read."""


class HostClock:
    """The CPU time of this process beside the time on the wall."""

    own: Own = "cpu"

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """All calls in a row."""
        wall, own = time.perf_counter_ns(), time.process_time_ns()
        results = [step() for step in steps]
        own = time.process_time_ns() - own
        return own, time.perf_counter_ns() - wall, results

    def rate(self) -> float | None:
        """Of no use: CPU time does not tell of a slower clock, but both arms of a pair share it."""
        return None


class WaitingClock:
    """The wall, for a device without events: until the device has nothing left to do."""

    own: Own = "wall"

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """All calls in a row, and what they left to do."""
        self.synchronize()
        wall = time.perf_counter_ns()
        results = [step() for step in steps]
        self.synchronize()
        wall = time.perf_counter_ns() - wall
        return wall, wall, results

    def rate(self) -> float | None:
        """Not known in general."""
        return None


class CudaClock:
    """CUDA events around each call, with the L2 cache flushed before it.

    The wall reading adds what the device still had to do when the second event was over: work on
    another stream, which the events do not see. cuda : torch's module, or a stand-in.
    """

    own: Own = "device"
    #: Cycles for which the device is kept busy, so that launching does not count.
    spin = 100_000

    def __init__(self, device: str, cuda: Any = torch.cuda) -> None:
        self.device = device
        self.cuda = cuda
        cache = cuda.get_device_properties(device).L2_cache_size
        self.flushed = torch.empty(max(2 * cache, 1), dtype=torch.int8, device=device)

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Each call by itself."""
        own = hidden = 0
        results = []
        for step in steps:
            start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
            self.flushed.zero_()
            self.cuda.synchronize(self.device)
            occupy(self.cuda, self.spin)
            start.record()
            results.append(step())
            end.record()
            end.synchronize()
            seen = time.perf_counter_ns()
            self.cuda.synchronize(self.device)
            hidden += time.perf_counter_ns() - seen
            own += round(1e6 * start.elapsed_time(end))
        return own, own + hidden, results

    def rate(self) -> float | None:
        """In MHz, where the driver's library is installed."""
        try:
            return float(self.cuda.clock_rate(self.device))
        except (ImportError, RuntimeError):
            return None


def clock_of(device: str) -> Clock:
    """The clock for a device."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return HostClock()
    if kind == "cuda":
        return CudaClock(device)
    return WaitingClock(lambda: torch.accelerator.synchronize(device))
