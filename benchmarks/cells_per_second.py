"""Where the time of a run goes: drawing cases, solving them, judging them; clause by clause.

`python benchmarks/cells_per_second.py [--profile quick] [LOSS ...]` judges torch.nn in this process
and prints seconds for each loss, then for each clause, then cells (a case under a clause) a second.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch

from lossspec import deviations
from lossspec.campaign import PROFILES, Campaign, stream
from lossspec.clauses import clauses
from lossspec.implementations import torch_nn
from lossspec.spec import catalogue, find


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loss", nargs="*")
    parser.add_argument("--profile", choices=list(PROFILES), default="quick")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    profile = PROFILES[options.profile]
    listed = deviations.shipped("torch.nn")
    parts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    cells: Counter[str] = Counter()
    print(f"{'loss':36}{'draw':>8}{'solve':>8}{'judge':>8}{'cells':>8}")
    for loss in [find(name) for name in options.loss] or list(catalogue().values()):
        for subject in torch_nn.classes.subjects(loss):
            judges = [c for c in clauses().values() if c.applies(loss, subject.surface)]
            judges = [c for c in judges if not c.slow or profile.name != "quick"]
            known = [entry for entry in listed if entry.loss == loss.name]
            marks = [time.perf_counter()]
            cases = list(stream(loss, profile, 0))
            marks.append(time.perf_counter())
            for solved in cases:
                _ = solved.expected
            marks.append(time.perf_counter())
            ledgers = Campaign(subject, judges, profile, known=known).run()
            marks.append(time.perf_counter())
            spent = [after - before for before, after in pairwise(marks)]
            parts.update(dict(zip(("draw", "solve", "judge"), spent, strict=True)))
            judged = sum(ledger.examples for ledger in ledgers.values())
            print(f"{loss.name:36}{''.join(f'{s:8.2f}' for s in spent)}{judged:8}")
            for name, ledger in ledgers.items():
                seconds[name] += ledger.seconds
                cells[name] += ledger.examples
    print(f"\n{'clause':36}{'seconds':>8}{'cells':>8}{'ms each':>9}")
    for name, spent in seconds.most_common():
        print(f"{name:36}{spent:8.2f}{cells[name]:8}{1e3 * spent / max(cells[name], 1):9.2f}")
    total = sum(parts.values())
    shares = ", ".join(f"{name} {spent / total:.0%}" for name, spent in parts.items())
    print(
        f"\n{cells.total()} cells in {total:.1f} s: {cells.total() / total:.0f} a second; {shares}"
    )


if __name__ == "__main__":
    main()
