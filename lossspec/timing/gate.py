"""The gate of a timing run: a loss is timed only if it conforms."""

from __future__ import annotations

from lossspec.clauses import clauses
from lossspec.judging.plan import CellPlan
from lossspec.judging.profiles import PROFILES
from lossspec.judging.run import Run
from lossspec.report.verdict import Verdict
from lossspec.timing.plan import TimedLoss

#: The clauses that a loss must satisfy before it is timed.
GATE = ("accepts", "value", "gradient", "inputs-untouched")


def reason_not_timed(timed_loss: TimedLoss, seed: int) -> str | None:
    """Return why a loss is not timed, after judging it in this process; None if it conforms."""
    loss, surface = timed_loss.under_test.loss, timed_loss.under_test.surface
    if timed_loss.dtype not in loss.dtypes:
        return f"the spec of {loss.name} has no {timed_loss.dtype}; it has {', '.join(loss.dtypes)}"
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
        # Time a loss with known deviations too: its maintainers have examined them.
        if record.verdict not in (Verdict.CONFORMS, Verdict.KNOWN):
            return f"{cell.clause.name}: {record.verdict} ({record.reason})"
    return None
