"""A campaign: everything that is done to judge one loss of one implementation on one device.

The loss is judged on one surface: as a function or as a class. A campaign draws cases, calls the
implementation with each, and lets every clause judge the result.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from hypothesis.database import ExampleDatabase

from lossspec.cases.case import Case
from lossspec.cases.hypothesis_runs import remember
from lossspec.clauses import Clause
from lossspec.dtypes import precision
from lossspec.errors import SpecError
from lossspec.excuse import Excuse
from lossspec.execution.call import unsupported_argument
from lossspec.execution.checkpoint import CrashCheckpoint, noting
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.process_state import process_preserved
from lossspec.execution.timeout import STOPS, CallTimeout, watched
from lossspec.judging.case_judge import KEPT, CaseJudge, ClauseRecords
from lossspec.judging.clause_record import ClauseRecord, share_rest
from lossspec.judging.costly_cases import Candidate, judge_chosen
from lossspec.judging.crash_steps import REPLAYED, SHRINKING, CrashSteps
from lossspec.judging.deviation import brief
from lossspec.judging.drawn_cases import DrawnCases
from lossspec.judging.excuses import Excuses
from lossspec.judging.judgement import judge_stored
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.observer import Observer
from lossspec.judging.profiles import Profile
from lossspec.judging.shown import Shower
from lossspec.judging.spread_failure import spread_failure
from lossspec.judging.stream import CHOSEN, candidates
from lossspec.judging.support import Support
from lossspec.oracle.solver import SolvedCase
from lossspec.thresholds import INFORMATIVE, SLACK

#: How many cases of a costly clause are replaced by others, if a known deviation excuses them.
LISTED_CASES = 6

#: Receives the number of cases judged, of cases to judge, and of clauses that deviate so far.
OnProgress = Callable[[int, int, int], None]


@dataclass
class Campaign:
    """A campaign: the settings, and what the clauses have found so far.

    `run` does the work, in this order:

    1. Judge the stored cases of the known deviations.
    2. Judge the cases that Hypothesis draws. Cases that failed in earlier runs come first.
    3. Judge the costly clauses, such as those under `torch.compile`, on a few chosen cases.
    4. Decide which features the implementation does not support. A deviation does not count if it
       only shows that an optional feature is missing.
    5. Choose the deviations that the report shows, and shrink their cases.
    6. Judge the hazardous clauses, which make invalid calls. Such a call may damage the process.
    7. If the implementation never worked, report every clause as deviating.

    Attributes:
        under_test: The implementation of the loss.
        clauses: The clauses to judge.
        profile: How many cases are drawn.
        seed: The seed of the drawn cases.
        device: The device of all tensors, such as `cuda:0`.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.
        known: The known deviations of this loss. A deviation that one of them covers is excused.
        reference: The torch counterpart. A deviation that it shares is excused. None if the
            implementation under test is torch itself.
        checkpoint: The crash checkpoint on disk. A step is the call of one case, or the judging of
            one case by one clause. The checkpoint knows in which steps earlier processes ended, and
            these steps are skipped. None if no replacement worker can take over.
        on_progress: Called after every case, after every slow clause and at the end.
        after_step: Called after every call and every judgement, also during shrinking.
        observer: Called for every judgement. It can skip cases and end the campaign early.
        shrinks: Whether to shrink failing cases and look for further kinds of deviations.
        name: The name of the campaign. The database keeps failing cases under this name.
        database: The Hypothesis database that keeps failing cases for the next run.
        support: The features that the implementation supports, as its calls show.
        clause_records: The record of each clause, by the name of the clause.
        timed_out: The case of the call that reached its timeout, if there was one.
    """

    under_test: LossUnderTest
    clauses: Sequence[Clause]
    profile: Profile
    seed: int = 0
    device: str = "cpu"
    dtypes: tuple[str, ...] | None = None
    known: Sequence[KnownDeviation] = ()
    reference: LossUnderTest | None = None
    checkpoint: CrashCheckpoint | None = None
    on_progress: OnProgress | None = None
    after_step: Callable[[], None] = lambda: None
    observer: Observer | None = None
    shrinks: bool = True
    name: str = ""
    database: ExampleDatabase | None = None
    support: Support = field(init=False, default_factory=Support)
    clause_records: dict[str, ClauseRecord] = field(init=False)
    timed_out: Case | None = field(init=False, default=None)
    #: The numbers of cases judged and of cases to judge.
    _done: int = field(init=False, default=0)
    _total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.clause_records = {clause.name: ClauseRecord(clause) for clause in self.clauses}
        self._steps = CrashSteps(self.checkpoint)
        self._excuses = Excuses(self.under_test, self.device, self.known, self.reference)
        self._shower = Shower(self.support, self._excuses, self._steps, self.after_step)
        self._case_judge = CaseJudge(
            self._excuses,
            self._steps,
            self.support,
            self.clause_records,
            self.learns,
            self._report_progress,
            self.after_step,
            self.observer,
        )

    def run(self) -> dict[str, ClauseRecord]:
        """Judge all cases by all clauses.

        Returns:
            The record of each clause, by the name of the clause.

        Raises:
            SpecError: The spec of the loss cannot be evaluated.
        """
        start = time.perf_counter()
        # Each call records its warnings itself. Printing them too would only fill the screen.
        with (
            process_preserved(),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            watched(),
        ):
            warnings.simplefilter("ignore")
            with noting(self.checkpoint):
                self._walk()
        share_rest(time.perf_counter() - start, list(self.clause_records.values()))
        return self.clause_records

    @property
    def _key(self) -> str:
        """The key of the failing cases in the database.

        It contains the dtypes, because the same Hypothesis choices give another case if other
        dtypes are selected.
        """
        return " ".join([self.name, *(self.dtypes or ())])

    def learns(self, clause_record: ClauseRecord) -> bool:
        """Return whether a clause needs more cases."""
        if clause_record.found is not None and not self.shrinks:
            return False
        return clause_record.learns(self.profile.patience)

    def _walk(self) -> None:
        """Do the seven steps that the docstring of the class lists."""
        records = self.clause_records
        self._total = self.profile.cases(self.under_test.loss) + self.profile.searched
        self._report_progress()
        self._steps.restore(records)
        hazardous = {name: record for name, record in records.items() if record.clause.hazard}
        safe = {name: record for name, record in records.items() if not record.clause.hazard}
        self._replay_known(safe)
        try:
            self._judge_drawn(safe)
            self._judge_chosen([x for x in records.values() if x.clause.chosen])
        except CallTimeout:
            pass  # keep the findings so far, but do not shrink them: another call may hang too
        except (SpecError, *STOPS):
            raise
        except Exception as error:  # an error in lossspec itself: keep the findings so far
            for clause_record in filter(self.learns, records.values()):
                clause_record.broken = brief(error)
        self.support.settle(records, self._excuses, self.timed_out is not None)
        self._show_findings(safe)
        if hazardous and self.timed_out is None:
            self._judge_hazardous(hazardous)
        shrinks = self.shrinks and self.timed_out is None
        spread_failure(records, self.support, self._shower.shrunk if shrinks else None)
        self._steps.leave()
        self._done = self._total = max(self._done, self._total)
        self._report_progress()

    def _count(self, done: int = 0, more: int = 0) -> None:
        """Count cases for the progress display.

        Args:
            done: Cases that were judged since the last call.
            more: Cases to judge beyond those of the profile.
        """
        self._done += done
        self._total += more
        if done:
            self._report_progress()

    def _report_progress(self) -> None:
        if self.on_progress is not None:
            total = max(self._done, self._total)  # a search may draw more cases than planned
            found = sum(record.found is not None for record in self.clause_records.values())
            self.on_progress(self._done, total, found)

    def _judge_drawn(self, safe: ClauseRecords) -> None:
        """Judge the cases that Hypothesis draws, after those that failed in earlier runs.

        The first `KEPT` small calls that work are also kept for the hazardous clauses, which change
        them into invalid calls. Drawing goes on until there are `KEPT` of them, even if no clause
        needs more cases.
        """
        drawn = {name: x for name, x in safe.items() if not x.clause.chosen}
        hazardous = any(record.clause.hazard for record in self.clause_records.values())

        def look(solved: SolvedCase) -> float:
            self._steps.number += 1
            worst = self._look(solved, drawn)
            self._count(done=1)
            return worst

        def wants_more() -> bool:
            kept = hazardous and len(self._case_judge.kept) < KEPT
            return kept or any(map(self.learns, drawn.values()))

        def lacking(dtype: str) -> int:
            value = drawn.get("value")
            # In bfloat16 a few roundings make a case uninformative, and further draws do not help.
            coarse = SLACK * 4 * precision(dtype).unit > INFORMATIVE
            if value is None or coarse or not self.learns(value):
                return 0
            return max(0, self.profile.each_dtype - value.informed[dtype])

        def fails(solved: SolvedCase) -> bool:
            before = self._unexcused()
            self._look(solved, drawn)
            return self._unexcused() > before

        cases = DrawnCases(
            self.under_test.loss,
            self.profile,
            self.seed,
            self.dtypes,
            self.support,
            look,
            wants_more,
            lacking,
            lambda more: self._count(more=more),
        )
        cases.hand_over_again(self.database, self._key, fails)
        cases.hand_over()
        for clause_record in drawn.values():
            clause_record.over = True

    def _unexcused(self) -> int:
        """Return the number of findings without an excuse."""
        records = self.clause_records.values()
        return sum(finding.excuse is None for record in records for finding in record.findings)

    def _judge_chosen(self, clause_records: Sequence[ClauseRecord]) -> None:
        """Judge each costly clause on a few cases that together use every option of the loss."""
        if not any(map(self.learns, clause_records)):
            return
        pool = candidates(self.under_test, self.seed, self.dtypes, self.support.unsupported)
        for clause_record in clause_records:
            judge_chosen(
                pool,
                clause_record.clause.chosen,
                partial(self.learns, clause_record),
                partial(self._judge_candidate, clause_record),
            )
            clause_record.over = True

    def _judge_candidate(self, clause_record: ClauseRecord, candidate: Candidate) -> bool | None:
        """Judge one case by a costly clause.

        Returns:
            True if the clause judged the case. False if the implementation does not work in the way
            that the clause calls it, for example under `torch.compile`. None if the case does not
            meet the preconditions.
        """
        self._steps.number = CHOSEN + candidate.number
        judged, failed = clause_record.examples, clause_record.failed
        listed = clause_record.excused[Excuse.EXPECTED_FAILURE]
        self._look(candidate.solved, {clause_record.clause.name: clause_record})
        now = clause_record.excused[Excuse.EXPECTED_FAILURE]
        if listed < now <= LISTED_CASES:
            return None  # a known deviation could hide another defect in this case
        if clause_record.examples > judged:
            return True
        return None if clause_record.failed == failed else False

    def _judge_hazardous(self, clause_records: ClauseRecords) -> None:
        """Judge the clauses that make invalid calls, after all other clauses.

        An invalid call must raise an error. If it does not, it may damage memory, and the process
        may crash later. These clauses run last, so that such a crash interrupts no other clause and
        can be attributed to the invalid call. The invalid calls are derived from valid calls that
        were made and kept earlier, so that no valid call has to run in damaged memory.
        """
        self._steps.endanger()
        self._steps.number = REPLAYED
        self._replay_known(clause_records)
        for clause_record in sorted(clause_records.values(), key=lambda x: x.clause.hazard):
            for number, trial in self._case_judge.kept:
                if not self.learns(clause_record):
                    break
                self._steps.number = number
                try:
                    self._case_judge.judge(clause_record, trial)
                except CallTimeout:
                    self.timed_out = trial.case
                    return
            number = self._steps.number
            self._show_findings({clause_record.clause.name: clause_record})
            self._steps.blame(number, clause_record)
            clause_record.over = True

    def _look(self, solved: SolvedCase, clause_records: ClauseRecords) -> float:
        """Judge one case, and record it as `timed_out` if a call reaches its timeout.

        Returns:
            The largest error ÷ budget among the clauses.
        """
        try:
            return self._case_judge.look(solved, clause_records)
        except CallTimeout:
            self.timed_out = solved.case
            raise

    def _replay_known(self, clause_records: ClauseRecords) -> None:
        """Judge the stored case of each known deviation, which is expected to fail.

        Skip a case if its dtype is not selected or not supported by the device, if it has arguments
        that the implementation does not accept, or if it ended an earlier process.
        """
        for known in self.known:
            clause_record, case = clause_records.get(known.clause), known.case
            if clause_record is None or case.dtype not in (self.dtypes or (case.dtype,)):
                continue
            trial = self._excuses.trial(case)
            missing = unsupported_argument(self.under_test, case)
            if missing is not None or not self.support.held(case, self.device):
                continue
            if self._steps.enter(known.clause):
                judge_stored(clause_record, known, trial)
            else:
                clause_record.killer = case

    def _show_findings(self, clause_records: ClauseRecords) -> None:
        """Choose the findings that the report shows, and store their cases for the next run.

        Nothing is stored or shrunk if `shrinks` is False, or after a timeout.
        """
        shrinks = self.shrinks and self.timed_out is None
        self._steps.number = SHRINKING
        for clause_record in clause_records.values():
            start = time.perf_counter()
            self._shower.show(clause_record, shrinks)
            clause_record.seconds += time.perf_counter() - start
            for finding in clause_record.shown if shrinks else ():
                if finding.solved.dtypes == self.dtypes and finding.solved.choices:
                    remember(self.database, self._key, finding.solved.choices)
            if clause_record.shown:
                self._report_progress()
