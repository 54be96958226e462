"""The choice of the findings that a report shows: one of each kind, with shrunk cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.crash_steps import CrashSteps
from lossspec.judging.excuses import Excuses
from lossspec.judging.finding import Finding, Question
from lossspec.judging.judgement import excused
from lossspec.judging.kinds import Kind, explains
from lossspec.judging.shrinking import simplest
from lossspec.judging.support import Support

#: The most kinds of deviations that are shown for a clause. One mistake often deviates in many
#: ways, and a run after its repair shows the remaining kinds.
MOST_KINDS = 3
#: The most further findings of a clause that are examined. Most of them have an excuse, or are of
#: the first kind after all.
MOST_LOOKED_FOR = 12
#: The share of the shrinking attempts that each further finding of a clause gets.
FURTHER_EFFORT = 0.5


@dataclass
class Shower:
    """The choice of the findings that the report of a campaign shows.

    Attributes:
        support: The features that the implementation supports, which decide which findings count.
        excuses: Looks up excuses for further findings.
        steps: Knows whether shrinking ended an earlier process.
        after_step: Called before each shrinking attempt.
    """

    support: Support
    excuses: Excuses
    steps: CrashSteps
    after_step: Callable[[], None]

    def show(self, clause_record: ClauseRecord, shrinks: bool) -> None:
        """Choose the findings that a record shows: the first that counts, then other kinds.

        A finding is of another kind if another property is broken, or if its call lacks a trait of
        each shrunk case that is shown already.

        Args:
            clause_record: The record, whose `shown` is extended.
            shrinks: Whether cases are shrunk. If not, only the first finding is shown.
        """
        looked_for = 0
        for finding in _counting(clause_record, self.support):
            kinds = [shown.kind for shown in clause_record.shown]
            if any(explains(shown, finding.kind) for shown in kinds):
                continue
            if finding.question is Question.ANOTHER_KIND:
                looked_for += 1
                if looked_for > MOST_LOOKED_FOR:
                    return
                trial = self.excuses.trial(finding.case)
                if excused(clause_record, trial, finding.deviation, self.excuses):
                    continue
            effort = FURTHER_EFFORT if clause_record.shown else 1.0
            shown = self.shrunk(clause_record, finding, effort, kinds) if shrinks else finding
            clause_record.shown.append(shown)
            if not shrinks or len(clause_record.shown) == MOST_KINDS:
                return

    def shrunk(
        self,
        clause_record: ClauseRecord,
        finding: Finding,
        effort: float = 1.0,
        others: Sequence[Kind] = (),
    ) -> Finding:
        """Return a finding with a shrunk case, unless shrinking ended an earlier process.

        Args:
            clause_record: The record of the clause.
            finding: The finding.
            effort: The share of the shrinking attempts to make.
            others: The kinds that are shown already, which the shrunk case must not have.
        """
        if clause_record.clause.once or not self.steps.enter(clause_record.clause.name):
            return finding
        return simplest(clause_record, finding, self.excuses, self.after_step, effort, others)


def _counting(clause_record: ClauseRecord, support: Support) -> Iterator[Finding]:
    """Yield the findings that count, then those that may be of another kind."""
    counted = [finding for finding in clause_record.findings if support.counts(finding)]
    # A wrong gradient is more informative than a missing one, so it is shown first.
    yield from [f for f in counted if f.question is not Question.NOTHING_ELSE]
    if not clause_record.shown:
        yield from [f for f in counted if f.question is Question.NOTHING_ELSE]
    if clause_record.shown:
        yield from list(clause_record.asking(Question.ANOTHER_KIND))
