"""Clocks that time blocks of calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch

from lossspec.execution.inputs import Step
from lossspec.execution.torch_private import occupy

Own = Literal["cpu", "device", "wall"]


class Clock(Protocol):
    """A clock that times a block of calls.

    Attributes:
        own: The kind of time that the clock's own reading counts.
    """

    own: Own

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Call each step once.

        Args:
            steps: The calls.

        Returns:
            The own reading and the wall time, in nanoseconds, and the results of the calls.
        """

    def rate(self) -> float | None:
        """Return the device's current clock rate in MHz; None if it cannot be read."""


class HostClock:
    """A clock whose own reading is the CPU time of this process."""

    own: Own = "cpu"

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Time all calls in sequence."""
        wall, own = time.perf_counter_ns(), time.process_time_ns()
        results = [step() for step in steps]
        own = time.process_time_ns() - own
        return own, time.perf_counter_ns() - wall, results

    def rate(self) -> float | None:
        """Return None; a change of the processor's clock rate affects both arms of a pair."""
        return None


class WaitingClock:
    """A clock for a device without events: the wall time until the device is idle.

    Args:
        synchronize: A function that waits until the device is idle.
    """

    own: Own = "wall"

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self.synchronize = synchronize

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Time all calls in sequence, including the work that they left on the device."""
        self.synchronize()
        wall = time.perf_counter_ns()
        results = [step() for step in steps]
        self.synchronize()
        wall = time.perf_counter_ns() - wall
        return wall, wall, results

    def rate(self) -> float | None:
        """Return None; not every device reports its clock rate."""
        return None


class CudaClock:
    """A clock with CUDA events around each call; it flushes the L2 cache before each call.

    The events do not see work on another stream. The wall reading therefore adds the time from the
    second event until the device is idle.

    Args:
        device: The CUDA device.
        cuda: The module `torch.cuda`, or a stand-in for tests.

    Attributes:
        own: The kind of time that the clock's own reading counts.
        spin: The cycles for which the device is kept busy before a call, so that the time of
            launching kernels does not count.
    """

    own: Own = "device"
    spin = 100_000

    def __init__(self, device: str, cuda: Any = torch.cuda) -> None:
        self.device = device
        self.cuda = cuda
        cache = cuda.get_device_properties(device).L2_cache_size
        self.flushed = torch.empty(max(2 * cache, 1), dtype=torch.int8, device=device)

    def measure(self, steps: Sequence[Step]) -> tuple[int, int, list[Any]]:
        """Time each call by itself, and add the times."""
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
        """Return the clock rate in MHz; None unless the driver's Python library is installed."""
        try:
            return float(self.cuda.clock_rate(self.device))
        except (ImportError, RuntimeError):
            return None


def clock_of(device: str) -> Clock:
    """Return the clock for a device."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return HostClock()
    if kind == "cuda":
        return CudaClock(device)
    return WaitingClock(lambda: torch.accelerator.synchronize(device))
