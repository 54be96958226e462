"""Update a file of known deviations from a run."""

from __future__ import annotations

from collections.abc import Sequence

from lossspec.clauses.trial import Trial
from lossspec.execution.call import unsupported_argument
from lossspec.judging.deviation import deviation_of
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.plan import CellPlan, Plan
from lossspec.judging.run import Run
from lossspec.oracle.solver import SolvedCase
from lossspec.report.verdict import Verdict


def updated(
    run: Run, plan: Plan, listed: Sequence[KnownDeviation]
) -> tuple[list[KnownDeviation], list[KnownDeviation], list[KnownDeviation]]:
    """The listed deviations that still fail, the new ones, and the listed ones that do not fail.

    What is listed of another version or device cannot be told here: it is kept.
    """
    cells = [cell for cell in plan.cells() if cell.applies and cell.under_test is not None]
    dropped = []
    for entry in listed:
        about = [
            cell
            for cell in plan.cells()
            if entry.holds(cell.implementation.version, cell.device, cell.surface)
        ]
        if about and not any(still_fails(entry, cell) for cell in about):
            dropped.append(entry)
    kept = [entry for entry in listed if entry not in dropped]
    run.known = kept
    added: dict[tuple[str, str, str], KnownDeviation] = {}
    for cell in cells:
        beside = [other for other in cells if other.campaign == cell.campaign]
        record, _ = run.judge(cell, beside)
        # Not the case that the record shows, which may be derived from the one judged.
        campaign = run.campaign(cell)
        found = campaign.clause_records[cell.clause.name].found
        if record.verdict is Verdict.DEVIATES and found is not None:
            both = len(list(cell.implementation.losses_under_test(cell.loss))) > 1
            entry = KnownDeviation(
                loss=record.loss,
                clause=record.clause,
                reason=f"not explained yet: {record.reason}",
                when={"surface": record.surface} if both else {},
                case=found.case,
            )
            # Of a loss that never works every clause says so; clause `accepts` is the one to list.
            if not campaign.support.fails or still_fails(entry, cell):
                added.setdefault((record.loss, record.clause, record.surface), entry)
    return kept, list(added.values()), dropped


def still_fails(entry: KnownDeviation, cell: CellPlan) -> bool:
    """Whether the stored case of an entry breaks its clause on a cell's implementation."""
    if (entry.loss, entry.clause) != (cell.loss.name, cell.clause.name) or cell.under_test is None:
        return False
    if unsupported_argument(cell.under_test, entry.case) is not None:
        return False
    trial = Trial(cell.under_test, SolvedCase(cell.loss, entry.case), cell.device)
    return deviation_of(cell.clause, trial) is not None
