"""Let every clause say so if an implementation, or its gradient, never works."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lossspec.clauses import clauses
from lossspec.execution.outcome import Phase
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.finding import Finding
from lossspec.judging.support import Support

#: Return the finding as a simpler case shows it; what goes wrong is noted in the record.
Shrink = Callable[[ClauseRecord, Finding], Finding]


def spread_failure(
    clause_records: Mapping[str, ClauseRecord], support: Support, shrink: Shrink | None
) -> None:
    """If the call never works, report every clause as deviating rather than conforming.

    If only backward never works, report the clauses on gradients that judged no case.

    shrink : makes the failing case simpler; None to show it as it is.
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
