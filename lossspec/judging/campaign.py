"""A campaign: judge one loss of one implementation on one device by every clause."""

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
from lossspec.errors import SpecError
from lossspec.execution.call import unsupported_argument
from lossspec.execution.checkpoint import CrashCheckpoint, noting
from lossspec.execution.implementation import LossUnderTest
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

#: Called with the cases done, the cases in all and the clauses that deviate so far.
OnProgress = Callable[[int, int, int], None]


@dataclass
class Campaign:
    """Judge one implementation on one device by a list of clauses.

    reference : torch's own function or class, whose deviations are not held against others.
    checkpoint : what earlier processes that ran it ended in. on_progress : called after every case,
    after every slow clause and at the end. after_step : called after every call and every
    judgement, while a case is shrunk as well. observer : told of every judgement. shrinks : whether
    the cases of findings are shrunk, and further kinds of deviations looked for. name, database :
    where the cases that fail are kept for the next run. timed_out : the case that it did not come
    back from.
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
    #: Cases judged, and cases to judge.
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
        """Judge every case by every clause that may still learn from it."""
        start = time.perf_counter()
        # What an implementation warns of is on its outcome; here it would only fill the screen.
        with warnings.catch_warnings(), np.errstate(all="ignore"), watched():
            warnings.simplefilter("ignore")
            with noting(self.checkpoint):
                self._walk()
        share_rest(time.perf_counter() - start, list(self.clause_records.values()))
        return self.clause_records

    @property
    def _key(self) -> str:
        """Where cases that fail are kept: the same choices make another case of other dtypes."""
        return " ".join([self.name, *(self.dtypes or ())])

    def learns(self, clause_record: ClauseRecord) -> bool:
        """Return whether another case may tell a clause something."""
        if clause_record.found is not None and not self.shrinks:
            return False
        return clause_record.learns(self.profile.patience)

    def _walk(self) -> None:
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
            pass  # what was found before it counts; what it is found in is not shrunk
        except (SpecError, *STOPS):
            raise
        except Exception as error:  # of lossspec itself; what was found before it counts
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
        """Count cases that were judged, and cases to judge beyond those of the profile."""
        self._done += done
        self._total += more
        if done:
            self._report_progress()

    def _report_progress(self) -> None:
        if self.on_progress is not None:
            total = max(self._done, self._total)  # a search may need more cases than it is given
            found = sum(record.found is not None for record in self.clause_records.values())
            self.on_progress(self._done, total, found)

    def _judge_drawn(self, safe: ClauseRecords) -> None:
        """Judge the cases that Hypothesis draws, those first that failed in earlier runs.

        Calls that work are also kept for the hazardous clauses, as long as these want more.
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
            lambda more: self._count(more=more),
        )
        cases.hand_over_again(self.database, self._key, fails)
        cases.hand_over()
        for clause_record in drawn.values():
            clause_record.over = True

    def _unexcused(self) -> int:
        records = self.clause_records.values()
        return sum(finding.excuse is None for record in records for finding in record.findings)

    def _judge_chosen(self, clause_records: Sequence[ClauseRecord]) -> None:
        """Judge each costly clause on a few cases that show every option."""
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
        """Return whether a costly clause judged a case; False if the call failed that way."""
        self._steps.number = CHOSEN + candidate.number
        judged, failed = clause_record.examples, clause_record.failed
        self._look(candidate.solved, {clause_record.clause.name: clause_record})
        if clause_record.examples > judged:
            return True
        return None if clause_record.failed == failed else False

    def _judge_hazardous(self, clause_records: ClauseRecords) -> None:
        """Judge the clauses whose calls must raise, when all others are done and shrunk.

        Damage that such a call does may end the process later: then no other clause is under way,
        and the end is held against the call that should have raised and did not. The calls that
        they start from were made before, so that no valid call comes in between.
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
        """Judge one case, and note it if a call with it does not end."""
        try:
            return self._case_judge.look(solved, clause_records)
        except CallTimeout:
            self.timed_out = solved.case
            raise

    def _replay_known(self, clause_records: ClauseRecords) -> None:
        """Judge the stored cases of the known deviations."""
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
        """Choose the findings that the report shows, and keep their cases for the next run."""
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
