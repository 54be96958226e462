"""Measure the time of a run, divided into drawing, solving and judging, and by clause.

`python benchmarks/cells_per_second.py [--profile quick] [LOSS ...]` judges torch.nn in this process
and prints the seconds for each loss and for each clause. It ends with the number of judgements (one
case under one clause) a second, and with that of a simple property-based test for comparison.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lossspec.clauses import clauses
from lossspec.implementations import torch_nn
from lossspec.judging import known_deviations
from lossspec.judging.campaign import Campaign
from lossspec.judging.profiles import PROFILES
from lossspec.judging.stream import stream
from lossspec.spec.catalogue import catalogue, find

PLAIN = 300


def plain_test() -> float:
    """Return the examples a second of a property-based test as an author of mse_loss writes it."""
    tiny = float(np.finfo(np.float32).tiny)
    numbers = arrays(np.float32, array_shapes(), elements=st.floats(-1e3, 1e3, width=32))

    @hypothesis.settings(max_examples=PLAIN, database=None, deadline=None)
    @hypothesis.given(numbers, st.sampled_from(["mean", "sum"]))
    def test(x: np.ndarray, reduction: str) -> None:
        input, target = torch.from_numpy(x).requires_grad_(), torch.zeros(x.shape)
        value = torch.nn.functional.mse_loss(input, target, reduction=reduction)
        value.backward()
        want = getattr(np, reduction)(x.astype(np.float64) ** 2)
        np.testing.assert_allclose(value.item(), want, rtol=1e-5, atol=tiny)
        size = x.size if reduction == "mean" else 1
        np.testing.assert_allclose(input.grad, 2 * x / size, rtol=1e-5, atol=tiny)

    start = time.perf_counter()
    test()
    return PLAIN / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loss", nargs="*")
    parser.add_argument("--profile", choices=list(PROFILES), default="quick")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    profile = PROFILES[options.profile]
    listed = known_deviations.shipped("torch.nn")
    parts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    cells: Counter[str] = Counter()
    print(f"{'loss':36}{'draw':>8}{'solve':>8}{'judge':>8}{'judged':>8}")
    for loss in [find(name) for name in options.loss] or list(catalogue().values()):
        for under_test in torch_nn.classes.losses_under_test(loss):
            judges = [c for c in clauses().values() if c.applies(loss, under_test.surface)]
            judges = [c for c in judges if not c.slow or profile.name != "quick"]
            known = [entry for entry in listed if entry.loss == loss.name]
            marks = [time.perf_counter()]
            cases = list(stream(loss, profile, 0))
            marks.append(time.perf_counter())
            for solved in cases:
                _ = solved.expected
            marks.append(time.perf_counter())
            clause_records = Campaign(under_test, judges, profile, known=known).run()
            marks.append(time.perf_counter())
            spent = [after - before for before, after in pairwise(marks)]
            parts.update(dict(zip(("draw", "solve", "judge"), spent, strict=True)))
            judged = sum(clause_record.examples for clause_record in clause_records.values())
            print(f"{loss.name:36}{''.join(f'{s:8.2f}' for s in spent)}{judged:8}")
            for name, clause_record in clause_records.items():
                seconds[name] += clause_record.seconds
                cells[name] += clause_record.examples
    print(f"\n{'clause':36}{'seconds':>8}{'judged':>8}{'ms each':>9}")
    for name, spent in seconds.most_common():
        print(f"{name:36}{spent:8.2f}{cells[name]:8}{1e3 * spent / max(cells[name], 1):9.2f}")
    total = sum(parts.values())
    cases = cells["accepts"]
    shares = ", ".join(f"{name} {spent / total:.0%}" for name, spent in parts.items())
    print(
        f"\n{cells.total()} judgements in {total:.1f} s: {cells.total() / total:.0f} a second; "
        f"{shares}"
        f"\n{cases / total:.0f} cases a second, each under {cells.total() / cases:.0f} clauses;"
        f" a simple test of mse_loss judges {plain_test():.0f} examples a second"
    )


if __name__ == "__main__":
    main()
