"""The judging of one case: make its call, then let each clause that needs more cases judge it."""

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

#: The largest number of small calls that worked and are kept for the hazardous clauses.
KEPT = 240
#: For each clause by its name, what a campaign has found.
ClauseRecords = Mapping[str, ClauseRecord]


@dataclass
class CaseJudge:
    """The judge of single cases, for one campaign.

    Attributes:
        excuses: Looks up excuses. It also holds the implementation under test and the device.
        steps: Holds the number of the current case, and knows the steps that ended a process.
        support: The features that the implementation supports, as its calls show.
        clause_records: The records of all clauses of the campaign.
        learns: Returns whether a clause needs more cases.
        report_progress: Called after every judgement of a slow clause.
        after_step: Called after every call and every judgement.
        observer: Called for every judgement. It can skip cases and end the campaign early.
        kept: Small calls that worked, each with the number of its case. The hazardous clauses
            change them into invalid calls.
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
        """Judge one case by each clause that needs more cases.

        Args:
            solved: The case and its right answer.
            clause_records: The records of the clauses to judge.

        Returns:
            The largest error ÷ budget among the clauses. It is 0 if no call was made.
        """
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
            if clause_record.clause.slow:  # torch.compile may take a minute for one case
                self.report_progress()
        return worst

    def judge(self, clause_record: ClauseRecord, trial: Trial) -> None:
        """Judge a case by a clause, unless an earlier process ended in this step."""
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
        """Call the implementation with a case, without the arguments that it does not accept.

        Returns:
            The trial with its outcome. None if no valid call remains, the device does not support a
            dtype, an earlier process ended in this call, or the call is not implemented.
        """
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
