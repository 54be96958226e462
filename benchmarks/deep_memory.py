"""Measure the resident memory of a worker during a long campaign, after each batch of cases.

`python benchmarks/deep_memory.py [--cases 10000] [LOSS]` judges torch.nn.functional in this process
(Linux only, because it reads /proc).
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lossspec.clauses import clauses
from lossspec.implementations import torch_nn
from lossspec.judging import known_deviations
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import BATCH
from lossspec.spec.catalogue import find

PAGE = 4096 / 2**20


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def show(done: int, total: int, found: int) -> None:
    """Print the memory at the end of each batch of cases."""
    if done and done % BATCH == 0:
        print(f"{done:8} cases{resident():10.1f} MiB", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the campaign, and print the memory during it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loss", nargs="?", default="huber_loss")
    parser.add_argument("--cases", type=int, default=10_000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loss = find(options.loss)
    profile = replace(PROFILES["deep"], examples=options.cases, searched=0)
    listed = [e for e in known_deviations.shipped("torch.nn.functional") if e.loss == loss.name]
    for under_test in torch_nn.functions.losses_under_test(loss):
        judges = [c for c in clauses().values() if c.applies(loss, under_test.surface)]
        Campaign(under_test, judges, profile, known=listed, on_progress=show).run()


if __name__ == "__main__":
    main()
