"""Judge one case: the plain call, then every clause that may still learn something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lossspec.clauses import SMALL
from lossspec.clauses.trial import Trial
from lossspec.excuse import Excuse
from lossspec.execution.outcome import unimplemented
from lossspec.execution.timeout import time_limit
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.crash_steps import CrashSteps
from lossspec.judging.excuses import Excuses
from lossspec.judging.judgement import judge
from lossspec.judging.observer import Observer
from lossspec.judging.stream import CHOSEN, supported_call
from lossspec.judging.support import Support
from lossspec.oracle.solver import SolvedCase

#: Small calls that work, kept for the clauses on calls that must raise: at most so many.
KEPT = 240
#: What was learned, by clause.
ClauseRecords = Mapping[str, ClauseRecord]


@dataclass
class CaseJudge:
    """Judge one case after another for a campaign.

    excuses : also the implementation and the device. steps : the number of the case at hand.
    support : what the campaign learns from calls. clause_records : of all
    clauses of the campaign. learns : whether another case may tell a clause something.
    report_progress : called after every judgement of a slow clause. after_step : called after every
    call and judgement. observer : told of every judgement. kept : small calls that have worked,
    with their numbers, for the clauses on calls that must raise.
    """

    excuses: Excuses
    steps: CrashSteps
    support: Support
    clause_records: ClauseRecords
    learns: Callable[[ClauseRecord], bool]
    report_progress: Callable[[], None]
    after_step: Callable[[], None]
    observer: Observer | None = None
    kept: list[tuple[int, Trial]] = field(default_factory=list)

    def look(self, solved: SolvedCase, clause_records: ClauseRecords) -> float:
        """Judge one case by the clauses that may still learn; return the worst error ÷ budget."""
        if self.observer is not None and not self.observer.wants(self.steps.number):
            return 0.0
        trial = self._called(solved)
        if trial is None:
            return 0.0
        worst = 0.0
        for clause_record in filter(self.learns, clause_records.values()):
            trial.worst = 0.0
            self.judge(clause_record, trial)
            worst = max(worst, trial.worst)
            if clause_record.clause.slow:  # one case of torch.compile may take a minute
                self.report_progress()
        return worst

    def judge(self, clause_record: ClauseRecord, trial: Trial) -> None:
        """Judge a clause on a case, unless that has ended a process."""
        if not self.steps.enter(clause_record.clause.name):
            clause_record.killer = trial.case
            return
        if clause_record.fatal:
            return
        if clause_record.clause.empty or trial.expected.losses.size:
            judge(clause_record, trial, self.excuses, self.support.attached)
            self.after_step()
        else:
            clause_record.blocked["some-elements"] += 1
            clause_record.excused[Excuse.NOT_ABOUT] += 1
        if self.observer is None:
            return
        if not self.observer.judged(self.steps.number, clause_record, trial):
            for each in self.clause_records.values():
                each.over = True

    def _called(self, solved: SolvedCase) -> Trial | None:
        """Call with a case, as far as the implementation takes it; None if there is no call."""
        under_test, device = self.excuses.under_test, self.excuses.device
        while True:
            case = supported_call(under_test, solved.case, self.support.unsupported)
            if case is None:
                return None
            if case is not solved.case:
                solved = solved.changed(case)
            if not self.support.held(case, device):
                return None
            trial = Trial(under_test, solved, device)
            if not self.steps.enter_call(case, self.clause_records):
                return None
            with time_limit():
                error = trial.outcome.error
            self.after_step()
            if unimplemented(error):
                self.support.note_unimplemented(trial, error)
                return None
            if not under_test.refuses(error):
                break
        self.support.note_call(trial, self.excuses)
        size = sum(array.size for array in case.tensors.values())
        drawn = self.steps.number < CHOSEN
        if error is None and size <= SMALL and drawn and len(self.kept) < KEPT:
            self.kept.append((self.steps.number, trial))
        return trial
