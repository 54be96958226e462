"""The gate of a timing run: only a loss that conforms is timed."""

from __future__ import annotations

from lossspec.clauses import clauses
from lossspec.judging.plan import CellPlan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.run import Run
from lossspec.report.verdict import Verdict
from lossspec.timing.plan import TimedLoss

#: What must hold before a loss is timed.
GATE = ("accepts", "value", "gradient", "inputs-untouched")


def reason_not_timed(timed_loss: TimedLoss, seed: int) -> str | None:
    """Return why a loss is not timed: it does not conform, in this very process."""
    loss, surface = timed_loss.under_test.loss, timed_loss.under_test.surface
    if timed_loss.dtype not in loss.dtypes:
        return f"the spec has no {timed_loss.dtype}; it has {', '.join(loss.dtypes)}"
    run = Run(PROFILES["quick"], seed, (timed_loss.dtype,))
    cells = [
        CellPlan(
            timed_loss.implementation,
            loss,
            surface,
            clauses()[name],
            timed_loss.device,
            timed_loss.under_test,
        )
        for name in GATE
        if clauses()[name].applies(loss, surface)
    ]
    for cell in cells:
        record, _ = run.judge(cell, cells)
        # A listed deviation is one that its owner has looked into.
        if record.verdict not in (Verdict.CONFORMS, Verdict.KNOWN):
            return f"{cell.clause.name}: {record.verdict} ({record.reason})"
    return None
