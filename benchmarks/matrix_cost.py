"""Compute the cost of a nightly matrix in machine hours from the seconds of a report's cells.

`python benchmarks/matrix_cost.py reports/published/torch.nn/conformance.json [--implementations 50]
[--versions 5] [--devices 3] [--cores 16]`. The times are those of the machine of the report.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from lossspec.report.records import Report


def start() -> float:
    """Return the median time of starting a worker (Python, torch and lossspec), in seconds."""
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import lossspec.pytest_plugin.session"], check=True)
        taken.append(time.perf_counter() - begun)
    return median(taken)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the cost of a cell, of a run and of the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    parser.add_argument("--implementations", type=int, default=50)
    parser.add_argument("--versions", type=int, default=5)
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--cores", type=int, default=16)
    options = parser.parse_args(arguments)
    report = Report.from_json(options.report.read_text("utf-8"))
    judged = [cell for cell in report.cells if cell.examples]
    seconds = sum(cell.seconds for cell in judged)
    losses: dict[str, float] = defaultdict(float)
    for cell in judged:
        losses[cell.loss] += cell.seconds
    runs = options.implementations * options.versions * options.devices
    hours = runs * seconds / 3600
    begun = start()
    print(f"{len(judged)} judged cells in profile {report.profile}: {seconds:.0f} s of one core")
    middle = median(cell.seconds for cell in judged)
    print(f"a cell: {seconds / len(judged) * 1e3:.0f} ms, the median {middle * 1e3:.0f} ms")
    slowest = max(losses, key=losses.__getitem__)
    print(f"the longest campaign, which runs in one worker: {slowest}, {losses[slowest]:.0f} s")
    print(f"a worker starts in {begun:.1f} s")
    print(f"the matrix: {runs} runs, {hours:.1f} h of one core", end="")
    wall = hours / options.cores + runs * begun / 3600 / options.cores
    print(f", {wall:.1f} h on {options.cores} cores with a run on each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
