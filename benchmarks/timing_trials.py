"""How often the timing suite's verdicts are wrong: the same loss against itself, and slower ones.

`python benchmarks/timing_trials.py [--trials 100]` plants a slowdown that is exact by construction:
after each call the process stays busy for that share of the CPU time which the call itself took.
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
    """Torch's cross entropy, which takes this share longer."""

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
    """Run and print one row: the verdicts, and the median and the width of the intervals."""
    case = workload(LOSS, axes, "float32", 0)
    # Without a slowdown both arms are the same object.
    torchs = LossUnderTest(TORCH, LOSS, "function", functional.cross_entropy)
    mine = torchs
    if share:  # reading the clock takes its time, in the baseline too
        torchs = LossUnderTest(TORCH, LOSS, "function", slowed(0.0))
        mine = LossUnderTest(MINE, LOSS, "function", slowed(share))
    verdicts: Counter[str] = Counter()
    ratios, widths, calls, start = [], [], [], time.perf_counter()
    for _ in range(count):
        contest = PairedTiming({MINE: mine, TORCH: torchs}, case, mode, "cpu", HostClock())
        contest.run()
        first, base = contest.readings()
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
    """Measure and print."""
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
