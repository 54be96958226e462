"""Measure the width of the error budgets: torch's worst error ÷ budget for each loss and dtype.

`python benchmarks/worst_ratios.py` prints the table; `... docs/budget.md` writes it between the
marks of that page. The last column is the median ratio of float64 losses computed in float32, over
the cases whose inputs float32 cannot hold.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.clauses import clauses
from lossspec.clauses.trial import Deviation, NotJudged, Trial
from lossspec.dtypes import REAL_DTYPES, precision
from lossspec.execution.call import unsupported_argument
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import perform
from lossspec.execution.tensors import to_extended
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging import known_deviations
from lossspec.judging.profiles import PROFILES, Profile
from lossspec.judging.stream import stream
from lossspec.render.layout import ratio
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss

MARKS = re.compile(r"(<!-- worst ratios: .*? -->\n).*?(<!-- end of worst ratios -->)", re.DOTALL)
WIDE, NARROW = "float64", "float32"


def worst(under_test: LossUnderTest, dtype: str, profile: Profile) -> float | None:
    """Return the largest error ÷ budget of value and gradient over the cases of one dtype.

    Cases that a known deviation covers are left out. The result is None if torch refuses the dtype.

    Args:
        under_test: The loss of torch.
        dtype: The dtype of the cases.
        profile: The profile that draws the cases.
    """
    listed = [
        k
        for k in known_deviations.shipped(under_test.implementation)
        if k.loss == under_test.loss.name
    ]
    top: float | None = None
    for solved in stream(under_test.loss, profile, 0, (dtype,)):
        if unsupported_argument(under_test, solved.case) is not None:
            continue
        trial = Trial(under_test, solved)
        if not trial.expected.losses.size or trial.outcome.error is not None:
            continue
        for name in ("value", "gradient"):
            trial.worst = 0.0
            if clauses()[name].unmet(trial) is not None:
                continue
            try:
                clauses()[name].judge(trial)
            except NotJudged:
                continue
            except Deviation as deviation:
                known = (k for k in listed if k.clause == name)
                if any(k.covers(solved.case, deviation) for k in known):
                    continue
            top = max(top or 0.0, trial.worst)
    return top


def narrowed(under_test: LossUnderTest, profile: Profile) -> Iterator[float]:
    """Yield error ÷ budget of values computed in float32, for cases that float32 cannot hold."""
    for solved in stream(under_test.loss, profile, 0, (WIDE,)):
        case = solved.case
        narrow = cast(case)
        same = all(np.array_equal(a, case.tensors[n], True) for n, a in narrow.tensors.items())
        if same or unsupported_argument(under_test, case) is not None:
            continue
        want = solved.expected.value(case.reduction)
        outcome = perform(under_test, narrow, backward=False)
        if want.informative and isinstance(outcome.value, torch.Tensor):
            got = to_extended(outcome.value)
            if got.shape == want.exact.shape:
                yield float(want.error(got).max())


def cast(case: Case) -> Case:
    """Return the same case in float32."""
    numpy = precision(NARROW).numpy
    with np.errstate(over="ignore"):
        tensors = {
            name: array.astype(numpy) if array.dtype.kind == "f" else array
            for name, array in case.tensors.items()
        }
        cotangent = case.cotangent.astype(numpy)
    return case.with_(dtype=NARROW, tensors=tensors, cotangent=cotangent)


def row(loss: Loss, profile: Profile) -> str:
    """Return the line of one loss in the table."""
    under_test = torch_counterpart(loss, "function") or torch_counterpart(loss, "class")
    assert under_test is not None, f"torch has no {loss.name}"
    numbers = [worst(under_test, d, profile) if d in loss.dtypes else None for d in REAL_DTYPES]
    numbers.append(statistics.median(narrowed(under_test, profile)))
    return f"| [{loss.name}](losses/{loss.name}.md) | {' | '.join(map(ratio, numbers))} |"


def table(losses: Sequence[Loss], profile: Profile) -> str:
    """Return the whole table in Markdown."""
    head = [*REAL_DTYPES, f"{WIDE} in {NARROW}"]
    lines = [f"| loss | {' | '.join(head)} |", f"|---|{'--:|' * len(head)}"]
    for loss in losses:
        lines.append(row(loss, profile))
        print(lines[-1], file=sys.stderr)
    about = f"torch {torch.__version__.partition('+')[0]} on cpu, profile {profile.name}, seed 0."
    return "\n".join(["", *lines, "", about, "", ""])


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("--profile", choices=list(PROFILES), default="quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    made = table(list(catalogue().values()), PROFILES[options.profile])
    if options.page is None:
        print(made)
    else:
        text = options.page.read_text("utf-8")
        options.page.write_text(MARKS.sub(lambda found: found[1] + made + found[2], text), "utf-8")


if __name__ == "__main__":
    main()
