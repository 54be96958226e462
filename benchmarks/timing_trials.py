"""Measure how often the verdicts of the timing suite are wrong.

`python benchmarks/timing_trials.py [--trials 100]` times a loss against itself and against slower
versions. The slowdown is exact by construction: after each call the process stays busy for a given
share of the CPU time of that call.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from lossspec.cases.workloads import workload
from lossspec.execution.implementation import LossUnderTest
from lossspec.spec.catalogue import find
from lossspec.timing.clocks import HostClock
from lossspec.timing.measure import MINE, TORCH
from lossspec.timing.page import duration
from lossspec.timing.pairs import PairedTiming
from lossspec.timing.results import Mode
from lossspec.timing.statistics import compared

LOSS = find("cross_entropy")
CLASSES = 64
SECONDS = 1e-3


def slowed(share: float) -> Callable[..., Any]:
    """Return torch's cross entropy, slowed by this share of its CPU time."""

    def cross_entropy(*tensors: torch.Tensor, **parameters: Any) -> torch.Tensor:
        start = time.process_time_ns()
        value = functional.cross_entropy(*tensors, **parameters)
        now = time.process_time_ns()
        end = now + share * (now - start)
        while time.process_time_ns() < end:
            pass
        return value

    return cross_entropy


def trials(share: float, axes: dict[str, int], mode: Mode, count: int) -> None:
    """Run the trials of one row; print the verdicts, the ratios and the widths of the intervals.

    Args:
        share: The slowdown as a share of the CPU time of a call.
        axes: The sizes of the axes by name.
        mode: The mode of the timing.
        count: The number of trials.
    """
    case = workload(LOSS, axes, "float32", 0)
    # Without a slowdown, both arms are the same object.
    torchs = LossUnderTest(TORCH, LOSS, "function", functional.cross_entropy)
    mine = torchs
    if share:  # slow the baseline by 0, since reading the clock takes time in both arms
        torchs = LossUnderTest(TORCH, LOSS, "function", slowed(0.0))
        mine = LossUnderTest(MINE, LOSS, "function", slowed(share))
    verdicts: Counter[str] = Counter()
    ratios, widths, calls, start = [], [], [], time.perf_counter()
    for _ in range(count):
        timing = PairedTiming({MINE: mine, TORCH: torchs}, case, mode, "cpu", HostClock())
        timing.run()
        first, base = timing.readings()
        found = compared(first, base, "cpu")
        calls.append(base.seconds("cpu"))
        verdicts[found.verdict] += 1
        ratios.append(found.own.ratio)
        widths.append(found.own.high / found.own.low - 1)
    ratios.sort()
    widths.sort()
    told = ", ".join(f"{word} {n}" for word, n in verdicts.most_common())
    each = duration(statistics.median(calls))
    print(
        f"{share:+.0%} {mode:5s} {tuple(axes.values())!s:12s} torch's call {each}, "
        f"{count} trials: {told}; ratio median "
        f"{ratios[count // 2]:.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}; interval median "
        f"{widths[count // 2]:.1%} wide; {time.perf_counter() - start:.0f} s",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials, and print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    count = parser.parse_args(arguments).trials
    torch.set_num_threads(1)
    rows = 1024
    inputs = torch.randn(rows, CLASSES), torch.zeros(rows, dtype=torch.int64)
    taken = [HostClock().measure([lambda: functional.cross_entropy(*inputs)])[0] for _ in range(51)]
    rows = round(rows * SECONDS * 1e9 / statistics.median(taken))
    axes = {"N": rows, "C": CLASSES}
    print(f"torch {torch.__version__}, 1 thread, load average {os.getloadavg()[0]:.1f}")
    trials(0.0, axes, "infer", count)
    trials(0.10, axes, "infer", count)
    trials(0.05, axes, "infer", count)
    trials(0.0, {"N": 32, "C": 4}, "full", count)


if __name__ == "__main__":
    main()
