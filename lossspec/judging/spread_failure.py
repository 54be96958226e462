"""The report of a call or backward that never works, in every clause that it affects."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lossspec.clauses import clauses
from lossspec.execution.outcome import Phase
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.finding import Finding
from lossspec.judging.support import Support

#: Returns a finding with a shrunk case; errors are recorded in the `mishaps` of the record.
Shrink = Callable[[ClauseRecord, Finding], Finding]


def spread_failure(
    clause_records: Mapping[str, ClauseRecord], support: Support, shrink: Shrink | None
) -> None:
    """If the call never works, report every clause as deviating rather than conforming.

    If only the backward never works, report the clauses on gradients that judged no case.

    Args:
        clause_records: The records of all clauses of the campaign, which are changed.
        support: Knows whether the call and the backward ever worked.
        shrink: Shrinks the failing case. None shows it unchanged.
    """
    phase: Phase = "call" if support.never("call") else "backward"
    if not support.never(phase):
        return
    accepts = ClauseRecord(clauses()["accepts"])
    found = support.fails[phase]
    if shrink is not None:
        found = shrink(accepts, found)
    for clause_record in clause_records.values():
        gradient = clause_record.clause.theme == "gradient" and not clause_record.examples
        if phase == "call" or gradient:
            clause_record.findings.append(found)
            clause_record.shown = [found]
            clause_record.mishaps += accepts.mishaps
