"""Choose the findings of a clause that a report shows: one of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.excuses import Excuses
from lossspec.judging.finding import Finding, Question
from lossspec.judging.kinds import explains, kind_of
from lossspec.judging.support import Support

#: Kinds of deviations that are shown of a clause. One design difference shows in many cases; what
#: three kinds do not tell, a run after their repair does.
MOST_KINDS = 3

Shrink = Callable[[ClauseRecord, Finding], Finding]


def show(
    clause_record: ClauseRecord, support: Support, excuses: Excuses, shrink: Shrink | None
) -> None:
    """Choose what a record shows: its first finding, then those of another kind.

    A finding is of another kind if something else broke, or if it broke without what the simplest
    case of the kinds before needs. shrink : makes cases simpler; None to show the first as it is.
    """
    for finding in _counting(clause_record, support):
        kinds = [kind_of(shown.solved, shown.deviation) for shown in clause_record.shown]
        kind = kind_of(finding.solved, finding.deviation)
        if any(explains(shown, kind) for shown in kinds):
            continue
        later = finding.question is Question.ANOTHER_KIND
        if later and not _still_counts(clause_record, finding, excuses):
            continue
        shown = finding if shrink is None else shrink(clause_record, finding)
        clause_record.shown.append(shown)
        if shrink is None or len(clause_record.shown) == MOST_KINDS:
            return


def _counting(clause_record: ClauseRecord, support: Support) -> Iterator[Finding]:
    """The findings that count, and behind them those that are looked at only after one has."""
    counted = [finding for finding in clause_record.findings if support.counts(finding)]
    # A missing gradient must not hide a wrong one.
    yield from [f for f in counted if f.question is not Question.NOTHING_ELSE]
    if not clause_record.shown:
        yield from [f for f in counted if f.question is Question.NOTHING_ELSE]
    if clause_record.shown:
        yield from list(clause_record.asking(Question.ANOTHER_KIND))


def _still_counts(clause_record: ClauseRecord, finding: Finding, excuses: Excuses) -> bool:
    """Look for an excuse of a finding that was kept for later, and count it if there is one."""
    trial = excuses.trial(finding.case)
    excuse, by = excuses.of(clause_record.clause, trial, finding.deviation)
    if excuse is not None:
        clause_record.excused[excuse] += 1
        clause_record.findings.append(Finding(finding.solved, finding.deviation, excuse, by))
    return excuse is None
