"""Choose the findings that a report shows, one of each kind, and shrink their cases."""

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

#: Kinds of deviations that are shown of a clause. One design difference shows in many cases; what
#: three kinds do not tell, a run after their repair does.
MOST_KINDS = 3
#: Findings behind the first that are looked at for another kind. Most have an excuse, or show that
#: the first one's simplest case still has what its deviation does not need.
MOST_LOOKED_FOR = 12
#: The share of all attempts that is made to shrink a finding behind the first of a clause.
FURTHER_EFFORT = 0.5


@dataclass
class Shower:
    """Chooses what the report of a campaign shows.

    steps : whether shrinking has ended a process. after_step : called before each attempt.
    """

    support: Support
    excuses: Excuses
    steps: CrashSteps
    after_step: Callable[[], None]

    def show(self, clause_record: ClauseRecord, shrinks: bool) -> None:
        """Choose what a record shows: its first finding, then those of another kind.

        A finding is of another kind if something else broke, or if it broke without what the
        simplest case of the kinds before needs. shrinks : whether cases are made simpler; if not,
        the first is shown as it is.
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
        """Return the finding as a simpler case shows it, unless that has ended a process."""
        if clause_record.clause.once or not self.steps.enter(clause_record.clause.name):
            return finding
        return simplest(clause_record, finding, self.excuses, self.after_step, effort, others)


def _counting(clause_record: ClauseRecord, support: Support) -> Iterator[Finding]:
    """The findings that count, and behind them those that are looked at only after one has."""
    counted = [finding for finding in clause_record.findings if support.counts(finding)]
    # A missing gradient must not hide a wrong one.
    yield from [f for f in counted if f.question is not Question.NOTHING_ELSE]
    if not clause_record.shown:
        yield from [f for f in counted if f.question is Question.NOTHING_ELSE]
    if clause_record.shown:
        yield from list(clause_record.asking(Question.ANOTHER_KIND))
