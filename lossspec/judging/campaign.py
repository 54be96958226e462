"""A campaign: judge one loss of one implementation on one device by every clause."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from lossspec.cases.case import Case
from lossspec.cases.shrink import shrink
from lossspec.clauses import SMALL, Clause, clauses
from lossspec.clauses.trial import Deviation, Trial, Unsupported
from lossspec.dtypes import dtype_name
from lossspec.errors import SpecError
from lossspec.execution.call import unsupported_argument
from lossspec.execution.checkpoint import SUSPECT, CrashCheckpoint, Underway, noting
from lossspec.execution.devices import dtype_problem
from lossspec.execution.global_state import preserved
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import Phase, differentiable, unimplemented
from lossspec.execution.support import leaves_torch
from lossspec.execution.timeout import STOPS, CallTimeout, time_limit, watched
from lossspec.implementations.counterpart import composed_counterpart
from lossspec.judging.costly_cases import Candidate, bared, chosen, drawn_for
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.profiles import Profile
from lossspec.judging.stream import CHOSEN, stream, supported_call
from lossspec.oracle.solver import SolvedCase
from lossspec.safe_text import foreign_error
from lossspec.spec.roles import ClassIndex
from lossspec.thresholds import COUNTERPART_BARS, FRUITLESS_CASES, PLAIN_FAILURE, SAME_DEVIATION

#: So much further is the seed of the cases that stand in for those in dtypes that do not work.
INSTEAD = 1_000_000
#: So many small calls that work are kept for the clauses on calls that must raise.
KEPT = 240
#: In place of the number of a case: a stored one is replayed, one that failed is made simpler.
REPLAYED, SHRINKING = -1, -2
#: What is special about a call: its dtype, reduction, form or an argument, as kind and value.
Feature = tuple[str, str]
#: In place of a clause: the plain call, before any of them judges it.
CALL = "call"
#: Called with the cases done, the cases in all and the clauses that deviate so far.
OnProgress = Callable[[int, int, int], None]


@dataclass
class ClauseRecord:
    """What a campaign learned about one clause.

    fatal : whether it has ended a process. killer : the case that it was judging. last_call : what
    was called then. over : whether it gets no further case. broken : the error of lossspec itself
    that ended its judging. sound, unsound : while no case was about the clause, whether some call
    was right, and whether some was not. seconds : what its own judgements and shrinking took.
    share : its part of the time that all clauses need, for cases and answers: each case's time is
    divided evenly among the clauses that judged it.
    """

    clause: Clause
    examples: int = 0
    informative: int = 0
    worst: float = 0.0
    worst_case: Case | None = None
    dtypes: set[str] = field(default_factory=set)
    seconds: float = 0.0
    share: float = 0.0
    found: tuple[Case, Deviation] | None = None
    known: tuple[KnownDeviation, Case, Deviation] | None = None
    shared: tuple[LossUnderTest, Case, Deviation] | None = None
    stale: KnownDeviation | None = None
    broken: str | None = None
    lacks: str | None = None
    fatal: bool = False
    killer: Case | None = None
    last_call: Underway | None = None
    over: bool = False
    failed: int = 0
    sound: bool = False
    unsound: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    #: What went wrong in lossspec after the deviation was found, which the report says beside it.
    mishaps: list[str] = field(default_factory=list)


@dataclass
class Campaign:
    """Judge one implementation on one device by a list of clauses."""

    under_test: LossUnderTest
    clauses: Sequence[Clause]
    profile: Profile
    seed: int = 0
    device: str = "cpu"
    dtypes: tuple[str, ...] | None = None
    known: Sequence[KnownDeviation] = ()
    #: Torch's own function or class: what is merely inherited from it is not held against anybody.
    reference: LossUnderTest | None = None
    #: What the implementation lacks: parameters, optional tensors, reductions, forms.
    unsupported: set[str] = field(default_factory=set)
    #: Dtypes that never worked, or that the device cannot hold, and the error.
    refused: dict[str, str] = field(default_factory=dict)
    #: Whether some result carried a graph; by clause, the first deviation that is only that one
    #: does not.
    attached: bool = False
    detached: dict[str, tuple[Case, Deviation]] = field(default_factory=dict)
    #: By clause, the first deviation that is only that one tensor has no gradient.
    missing: dict[str, tuple[Case, Deviation]] = field(default_factory=dict)
    #: By dtype and by form, how many calls have worked and how many have raised.
    ran: dict[str, list[int]] = field(default_factory=dict)
    #: By dtype, the first call that raised though it ought to work.
    refusals: dict[str, tuple[Case, Deviation]] = field(default_factory=dict)
    #: By form and dtype, the first call of an optional form that raised.
    optional: dict[tuple[str, str], tuple[Case, Deviation]] = field(default_factory=dict)
    #: By dtype, the errors that say that something is not implemented.
    absent: dict[str, set[str]] = field(default_factory=dict)
    #: By such an error, the features of its calls; and the features of calls that worked.
    unimplemented: dict[str, set[Feature]] = field(default_factory=dict)
    worked: set[Feature] = field(default_factory=set)
    #: By dtype, the first error or deviation of a call that ought to work.
    errors: dict[str, str] = field(default_factory=dict)
    #: The case that it did not come back from.
    timed_out: Case | None = None
    #: What earlier processes that ran it ended in.
    checkpoint: CrashCheckpoint | None = None
    #: Which phases of a call have worked in float32, which is no option.
    works: set[Phase] = field(default_factory=set)
    #: By phase, the first call in float32 that did not work, though it ought to.
    fails: dict[Phase, tuple[Case, Deviation]] = field(default_factory=dict)
    #: Small calls that have worked, with their numbers, for clauses on calls that must raise.
    kept: list[tuple[int, Trial]] = field(default_factory=list)
    #: By clause, what was learned.
    clause_records: dict[str, ClauseRecord] = field(default_factory=dict)
    #: Called after every case, after every slow clause and at the end.
    on_progress: OnProgress | None = None
    #: Called after every call and every judgement, while a case is shrunk as well.
    after_step: Callable[[], None] = lambda: None
    #: Cases judged, and cases to judge.
    _done: int = 0
    _total: int = 0
    #: The number of the case at hand in the stream, or what stands for one.
    _case: int = REPLAYED

    def run(self) -> dict[str, ClauseRecord]:
        """Walk the stream; a clause stops at its first deviation that nothing explains."""
        start = time.perf_counter()
        # What an implementation warns of is on its outcome; here it would only fill the screen.
        with warnings.catch_warnings(), np.errstate(all="ignore"), watched():
            warnings.simplefilter("ignore")
            with noting(self.checkpoint):
                clause_records = self._walk()
        _share(time.perf_counter() - start, list(clause_records.values()))
        return clause_records

    def _walk(self) -> dict[str, ClauseRecord]:
        self.clause_records = clause_records = {
            clause.name: ClauseRecord(clause) for clause in self.clauses
        }
        self._total = self.profile.cases(self.under_test.loss) + self.profile.searched
        self._report_progress(clause_records)
        if self.checkpoint is not None:
            ended = zip(self.checkpoint.deaths, self.checkpoint.calls, strict=True)
            for (case, step), call in ended:
                if case not in (SHRINKING, SUSPECT):
                    clause_record = self._record_of(step, clause_records)
                    clause_record.fatal, clause_record.last_call = True, call
        hazardous = {name: x for name, x in clause_records.items() if x.clause.hazard}
        safe = {name: x for name, x in clause_records.items() if not x.clause.hazard}
        drawn = {name: x for name, x in safe.items() if not x.clause.chosen}
        self._replay_known(safe)

        def look(solved: SolvedCase) -> float:
            self._case += 1
            try:
                worst = self._look(solved, drawn)
            except CallTimeout:
                self.timed_out = solved.case
                raise
            self._done += 1
            self._report_progress(clause_records)
            return worst

        try:
            for solved in chain(
                stream(self.under_test.loss, self.profile, self.seed, self.dtypes), self._instead()
            ):
                wanted = bool(hazardous) and len(self.kept) < KEPT
                if not wanted and not any(map(self.learns, drawn.values())):
                    break
                look(solved)
            if self.profile.searched:
                from lossspec.judging.search import search

                search(self.under_test.loss, look, self.profile.searched, self.seed, self.dtypes)
            for clause_record in drawn.values():
                clause_record.over = True
            self._judge_chosen([x for x in clause_records.values() if x.clause.chosen])
        except CallTimeout:
            pass  # what was found before it counts; what it is found in is not made simpler
        except (SpecError, *STOPS):
            raise
        except Exception as error:  # of lossspec itself; what was found before it counts
            for clause_record in filter(self.learns, clause_records.values()):
                clause_record.broken = _brief(error)
        self._weigh_errors(clause_records)
        self._weigh_lost_graphs(clause_records)
        for name, found in self.missing.items():
            clause_records[name].found = clause_records[name].found or found
        self._shrink_findings(safe)
        if hazardous and self.timed_out is None:
            self._judge_hazardous(hazardous)
        if self.never("call"):
            self._tell(clause_records.values(), "call")
        elif self.never("backward"):
            about = (
                x
                for x in clause_records.values()
                if x.clause.theme == "gradient" and not x.examples
            )
            self._tell(about, "backward")
        if self.checkpoint is not None:
            self.checkpoint.leave()
        self._done = self._total = max(self._done, self._total)
        self._report_progress(clause_records)
        return clause_records

    def _report_progress(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        if self.on_progress is not None:
            total = max(self._done, self._total)  # a search may need more cases than it is given
            found = sum(
                clause_record.found is not None for clause_record in clause_records.values()
            )
            self.on_progress(self._done, total, found)

    def _judge_chosen(self, clause_records: Sequence[ClauseRecord]) -> None:
        """Judge each costly clause on a few cases that show every option."""
        loss = self.under_test.loss
        if not any(map(self.learns, clause_records)):
            return
        candidates = [
            Candidate(number, SolvedCase(loss, case))
            for number, solved in enumerate(drawn_for(loss, self.seed, self.dtypes))
            if (case := supported_call(self.under_test, solved.case, self.unsupported)) is not None
        ]
        for clause_record in clause_records:
            choice = chosen(candidates, clause_record.clause.chosen)
            candidate = next(choice, None)
            while candidate is not None and self.learns(clause_record):
                came = self._judge_candidate(clause_record, candidate)
                try:
                    candidate = choice.send(came)
                except StopIteration:
                    candidate = None
            clause_record.over = True

    def _judge_hazardous(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        """Judge the clauses whose calls must raise, when all others are done and shrunk.

        Damage that such a call does may end the process later: then no other clause is under way,
        and the end is held against the call that should have raised and did not. The calls that
        they start from were made before, so that no valid call comes in between.
        """
        if self.checkpoint is not None:
            self.checkpoint.endanger()
        self._case = REPLAYED
        self._replay_known(clause_records)
        for clause_record in sorted(
            clause_records.values(), key=lambda clause_record: clause_record.clause.hazard
        ):
            for number, trial in self.kept:
                if not self.learns(clause_record):
                    break
                self._case = number
                try:
                    self._judge_entered(clause_record, trial)
                except CallTimeout:
                    self.timed_out = trial.case
                    return
            number = self._case
            self._shrink_findings({clause_record.clause.name: clause_record})
            if clause_record.found is not None and self.checkpoint is not None:
                case, deviation = clause_record.found
                call = Underway(deviation.case or case, deviation.replaced)
                self.checkpoint.blame(number, clause_record.clause.name, call)
            clause_record.over = True

    def _judge_entered(self, clause_record: ClauseRecord, trial: Trial) -> None:
        """Judge a clause on a case, unless that has ended a process."""
        if not self._enters(clause_record.clause.name):
            clause_record.killer = trial.case
        elif not clause_record.fatal:
            self._judge(clause_record, trial)

    def _judge_candidate(self, clause_record: ClauseRecord, candidate: Candidate) -> bool | None:
        """Return whether a costly clause judged a case; False if the call failed that way."""
        self._case = CHOSEN + candidate.number
        judged, failed = clause_record.examples, clause_record.failed
        try:
            self._look(candidate.solved, {clause_record.clause.name: clause_record})
        except CallTimeout:
            self.timed_out = candidate.solved.case
            raise
        return (
            True
            if clause_record.examples > judged
            else (None if clause_record.failed == failed else False)
        )

    def _instead(self) -> Iterator[SolvedCase]:
        """As many cases in dtypes that work as were wasted on those that do not."""
        loss = self.under_test.loss
        asked = self.dtypes or loss.dtypes
        works = tuple(dtype for dtype in asked if self.ran.get(dtype, (0,))[0])
        if works and len(works) < len(asked):
            lost = self.profile.cases(loss) * (len(asked) - len(works)) // len(asked)
            self._total += lost
            yield from islice(stream(loss, self.profile, self.seed + INSTEAD, works), lost)

    def _weigh_errors(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        """Tell what never worked, and so is not there, from what raised where it ought to work."""
        for (form, dtype), found in self.optional.items():
            if self.ran[form][0]:
                self.refusals.setdefault(dtype, found)
            else:
                self.unsupported.add(form)
        for dtype, texts in self.absent.items():
            if dtype not in self.ran and dtype != "float32":
                self.refused[dtype] = min(texts)
        for dtype, found in self.refusals.items():
            # float32, torch's default, is no option.
            if not self.ran[dtype][0] and dtype != "float32":
                self.refused[dtype] = self.errors[dtype]
            elif clause_records["accepts"].found is None:
                clause_records["accepts"].found = found

    def _weigh_lost_graphs(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        """Hold a result without a graph against an implementation, unless none of its has one."""
        for name, found in self.detached.items():
            clause_record = clause_records[name]
            if self.timed_out is not None:  # to tell whose gradient is lost takes another call
                clause_record.informative = 0
            elif self._loses_graph(found[0]):
                clause_record.found = clause_record.found or found
            else:
                clause_record.examples = clause_record.informative = 0
                clause_record.lacks = "its results have no gradient"

    def _shrink_findings(self, clause_records: dict[str, ClauseRecord]) -> None:
        """Make each case that was found readable."""
        self._case = SHRINKING
        for name, clause_record in clause_records.items():
            again = clause_record.found and not clause_record.clause.once and self.timed_out is None
            if clause_record.found and again and self._enters(name):
                start = time.perf_counter()
                clause_record.found = self._reduced(clause_record, *clause_record.found)
                clause_record.seconds += time.perf_counter() - start
                self._report_progress(clause_records)

    def never(self, phase: Phase) -> bool:
        """Whether a phase of a call ought to work in float32 and never did."""
        return phase in self.fails and phase not in self.works

    def _tell(self, clause_records: Iterable[ClauseRecord], phase: Phase) -> None:
        """Of what never works no clause can say that it conforms, or is not there."""
        case, deviation = self.fails[phase]
        accepts = ClauseRecord(clauses()["accepts"])
        if self.timed_out is None and self._enters("accepts"):
            case, deviation = self._reduced(accepts, case, deviation)
        for clause_record in clause_records:
            clause_record.found = case, deviation
            clause_record.mishaps += accepts.mishaps

    def _enters(self, step: str) -> bool:
        """Whether the case at hand may be called or judged: not where that has ended a process."""
        return self.checkpoint is None or self.checkpoint.enter(self._case, step)

    @staticmethod
    def _record_of(step: str, clause_records: dict[str, ClauseRecord]) -> ClauseRecord:
        """Whose step it is: a plain call is that of the clause on it, or of any that is asked."""
        return clause_records.get("accepts" if step == CALL else step) or next(
            iter(clause_records.values())
        )

    def _loses_graph(self, case: Case) -> bool:
        """Whether a gradient should be there: a library of arrays has none to be wrong."""
        return self.attached or not leaves_torch(self.under_test, case, self.device)

    def _look(self, solved: SolvedCase, clause_records: dict[str, ClauseRecord]) -> float:
        """Judge one case by every clause that may still learn; the worst observed ÷ budget."""
        case = supported_call(self.under_test, solved.case, self.unsupported)
        if case is None:
            return 0.0
        if case is not solved.case:
            solved = SolvedCase(self.under_test.loss, case)
        if self._beyond(solved.case):
            return 0.0
        trial = Trial(self.under_test, solved, self.device)
        caller = self._record_of(CALL, self.clause_records)
        killer = caller.killer
        if killer is not None and _empty(killer) and _empty(trial.case):
            return 0.0  # what ends the process on one empty tensor does so on others
        if not self._enters(CALL):
            caller.killer = killer or trial.case
            return 0.0
        with time_limit():
            error = trial.outcome.error
        self.after_step()
        if unimplemented(error):
            text = foreign_error(error)
            self.absent.setdefault(solved.case.dtype, set()).add(text)
            self.unimplemented.setdefault(text, set()).update(_features(trial))
            return 0.0
        if self.under_test.refuses(error):
            return self._look(solved, clause_records)
        self.attached |= getattr(trial.outcome.value, "requires_grad", False)
        if error is None and not _empty(trial.case):  # many a kernel is not run on nothing
            self.worked |= _features(trial)
        for kind in (solved.case.dtype, solved.case.form):
            self.ran.setdefault(kind, [0, 0])[error is not None] += 1
        if trial.case.dtype == "float32":
            self._listen(trial)
        size = sum(array.size for array in trial.case.tensors.values())
        if error is None and size <= SMALL and self._case < CHOSEN and len(self.kept) < KEPT:
            self.kept.append((self._case, trial))
        worst = 0.0
        for clause_record in clause_records.values():
            if not self.learns(clause_record):
                continue
            trial.worst = 0.0
            self._judge_entered(clause_record, trial)
            worst = max(worst, trial.worst)
            if clause_record.clause.slow:  # one case of torch.compile may take a minute
                self._report_progress(self.clause_records)
        return worst

    def _listen(self, trial: Trial) -> None:
        """Take note of what works in float32 and what does not, until it does."""
        phase: Phase = "backward" if trial.worked else "call"
        if trial.worked:
            self.works.add("call")
            if trial.outcome.error is None and differentiable(trial.outcome.value):
                self.works.add("backward")
        if phase in {*self.works, *self.fails} or trial.form.optional:
            return
        accepts = clauses()["accepts"]
        deviation = deviation_of(accepts, trial)
        if deviation is None or self._covered(accepts, trial.case):
            return
        if self._inherited_from(accepts, trial, deviation) is None:
            self.fails[phase] = trial.case, deviation

    def _covered(self, clause: Clause, case: Case) -> KnownDeviation | None:
        """What is listed of a clause and such a case."""
        about = (known for known in self.known if known.clause == clause.name)
        return next((known for known in about if known.covers(case)), None)

    def _beyond(self, case: Case) -> bool:
        """Whether the device cannot hold a tensor of the case; which dtype it lacks is noted."""
        for dtype in sorted({dtype_name(array) for array in case.tensors.values()}):
            reason = dtype_problem(self.device, dtype)
            if reason is not None:
                self.refused[dtype] = reason
                return True
        return False

    def learns(self, clause_record: ClauseRecord) -> bool:
        """Whether another case may tell a clause something."""
        if clause_record.over:
            return False
        enough = clause_record.clause.enough
        tries = 1 if clause_record.clause.once else FRUITLESS_CASES
        if (
            clause_record.found
            or clause_record.broken
            or clause_record.killer
            or (clause_record.failed >= tries and not clause_record.examples)
        ):
            return False
        if clause_record.clause.chosen:
            return True  # until no case is left that shows more
        if clause_record.clause.once:
            return not clause_record.examples
        return enough is None or clause_record.informative < enough * self.profile.patience

    def _judge(self, clause_record: ClauseRecord, trial: Trial) -> None:
        if not clause_record.clause.empty and not trial.expected.losses.size:
            return
        start = time.perf_counter()
        trial.worst, trial.figures = 0.0, {}
        try:
            with time_limit(), preserved():
                informative = clause_record.clause.judge(trial)
        except Deviation as deviation:
            self._place(clause_record, trial, deviation)
            informative = True
        except Unsupported as lack:
            clause_record.lacks, informative = str(lack), None
            clause_record.failed += 1
        except (SpecError, *STOPS):
            raise
        except BaseException as error:
            # Not the implementation's: its errors are on its outcomes. One clause less, loudly.
            clause_record.broken = _brief(error)
            informative = None
        else:
            if informative is None and not clause_record.examples:
                sound = _sound(trial)
                clause_record.sound |= sound
                clause_record.unsound |= not sound
        clause_record.seconds += time.perf_counter() - start
        self.after_step()
        if informative is None:
            return
        clause_record.examples += 1
        clause_record.informative += informative
        clause_record.dtypes.add(trial.case.dtype)
        clause_record.figures |= trial.figures
        if clause_record.worst < trial.worst <= 1:
            clause_record.worst, clause_record.worst_case = trial.worst, trial.case

    def _place(self, clause_record: ClauseRecord, trial: Trial, deviation: Deviation) -> None:
        """Listed, inherited from torch, or new."""
        case = trial.case
        if (known := self._covered(clause_record.clause, case)) is not None:
            clause_record.known = clause_record.known or (known, case, deviation)
            return
        absent, torchs = False, None
        try:
            absent = self._of_absent(clause_record.clause, trial)
            torchs = (
                None if absent else self._inherited_from(clause_record.clause, trial, deviation)
            )
        except (SpecError, *STOPS):
            raise
        except Exception as error:  # of lossspec itself, which excuses nothing
            clause_record.mishaps.append(f"lossspec failed to look for an excuse: {_brief(error)}")
        if absent:
            return
        if torchs is not None:
            clause_record.shared = clause_record.shared or (torchs, case, deviation)
            return
        if clause_record.clause.name == "accepts":
            if trial.form.optional:
                self.optional.setdefault((case.form, case.dtype), (case, deviation))
            else:
                self.refusals.setdefault(case.dtype, (case, deviation))
                raised = trial.outcome.error
                what = f"{deviation.what}: {deviation.got}"
                self.errors.setdefault(case.dtype, foreign_error(raised) if raised else what)
            return
        if deviation.detached and not self.attached:
            self.detached.setdefault(clause_record.clause.name, (case, deviation))
            return
        if deviation.missing:
            self.missing.setdefault(clause_record.clause.name, (case, deviation))
            return
        clause_record.found = (case, deviation)
        clause_record.worst = max(clause_record.worst, trial.worst)

    def _of_absent(self, clause: Clause, trial: Trial) -> bool:
        """Whether it is right by what a parameter that its signature lacks may be as well."""
        absent = {
            name: parameter.absent
            for name, parameter in trial.loss.parameters_of(trial.form).items()
            if parameter.absent is not None and not self.under_test.takes(name)
        }
        if not absent:
            return False
        other = trial.case.with_(parameters={**trial.case.parameters, **absent})
        return deviation_of(clause, self._trial(other)) is None

    def _inherited_from(
        self, clause: Clause, trial: Trial, deviation: Deviation
    ) -> LossUnderTest | None:
        """What of torch's does the same on the same call, if anything."""
        if self.reference is None:
            return None
        documented = _documented(trial)
        # Torch may deviate elsewhere first: in another gradient, or where this is within budget.
        each = [documented.with_(requires_grad=(name,)) for name in documented.requires_grad]
        calls = [(self.reference, call) for call in (documented, *(each if len(each) > 1 else ()))]
        # Whoever takes the mean of torch's unreduced loss has the roundings of its parts.
        parts = composed_counterpart(trial.loss)
        if parts is not None and trial.expected.plain and documented.reduction in ("mean", "sum"):
            calls.append((parts, documented))
        for torchs, call in calls:
            solved = SolvedCase(trial.loss, call)
            for bar in COUNTERPART_BARS:
                try:
                    same = deviation_of(clause, Trial(torchs, solved, self.device, bar=bar))
                except Exception:
                    break  # the clause has nothing to say of torch here
                if same is not None and self._alike(clause, deviation, same):
                    return torchs
        return None

    @staticmethod
    def _alike(clause: Clause, deviation: Deviation, same: Deviation) -> bool:
        """Whether torch's deviation is the same one."""
        if clause.name == "accepts":  # whatever they raise, but not where torch has a value
            later = same.what.startswith("backward") and not deviation.what.startswith("backward")
            return "raised" in same.what and "raised" in deviation.what and not later
        if same.what == deviation.what and deviation.replaced:
            return True  # what an invalid call returns is anything; torch returns too
        return same.kind == deviation.kind and _alike(same, deviation)

    def _replay_known(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        for known in self.known:
            clause_record = clause_records.get(known.clause)
            if clause_record is None or known.case.dtype not in (
                self.dtypes or (known.case.dtype,)
            ):
                continue
            trial = self._trial(known.case)
            if unsupported_argument(self.under_test, known.case) is not None or self._beyond(
                known.case
            ):
                continue
            if not self._enters(known.clause):
                clause_record.killer = known.case
                continue
            try:
                deviation = deviation_of(clause_record.clause, trial)
            except (SpecError, *STOPS):
                raise
            except Exception as error:  # of lossspec itself, in this clause only
                clause_record.broken = _brief(error)
                continue
            if deviation is None:
                clause_record.stale = known
            elif clause_record.known is None:
                clause_record.known = (known, known.case, deviation)

    def _trial(self, case: Case) -> Trial:
        return Trial(self.under_test, SolvedCase(self.under_test.loss, case), self.device)

    def _reduced(
        self, clause_record: ClauseRecord, case: Case, deviation: Deviation
    ) -> tuple[Case, Deviation]:
        """Return the simplest case found that fails in the same way, and how it fails.

        An error of lossspec or of the spec on the way ends the search, and is noted.
        """
        found = (case, deviation)

        def keep(simpler: Case, how: Deviation) -> None:
            nonlocal found
            found = simpler, how

        try:
            self._shrink(clause_record, case, deviation, keep)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            clause_record.mishaps.append(
                f"the case is not as simple as it could be: {_brief(error)}"
            )
        return found

    def _shrink(
        self,
        clause_record: ClauseRecord,
        case: Case,
        deviation: Deviation,
        keep: Callable[[Case, Deviation], None],
    ) -> None:
        """Look for simpler cases that fail in the same way, and hand over each that is found."""
        plainly = Trial(
            self.under_test, SolvedCase(self.under_test.loss, case), self.device, bar=PLAIN_FAILURE
        )
        bar = PLAIN_FAILURE if deviation_of(clause_record.clause, plainly) is not None else 1.0

        def fails(candidate: Case) -> bool:
            self.after_step()
            if self._covered(clause_record.clause, candidate) is not None:
                return False
            if unsupported_argument(self.under_test, candidate) is not None:
                return False
            try:
                solved = SolvedCase(self.under_test.loss, candidate)
                found = deviation_of(
                    clause_record.clause, Trial(self.under_test, solved, self.device, bar=bar)
                )
            except (SpecError, *STOPS):
                raise
            except BaseException:
                return False  # a candidate that the clause cannot judge is no simpler case
            if found is None or found.kind != deviation.kind:
                return False
            trial = self._trial(candidate)
            if self._of_absent(clause_record.clause, trial):
                return False
            if self._inherited_from(clause_record.clause, trial, found) is not None:
                return False
            keep(candidate, found)
            return True

        # An attempt of a costly clause may compile the call several times.
        shrunk = bared if clause_record.clause.chosen else shrink
        shrunk(self.under_test.loss, case, fails)


def _documented(trial: Trial) -> Case:
    """The call of a trial with class indices in a dtype that torch is documented to take."""
    tensors = dict(trial.case.tensors)
    for name, role in trial.form.tensors.items():
        if isinstance(role, ClassIndex) and dtype_name(tensors[name]) in role.tolerated:
            tensors[name] = tensors[name].astype(role.dtypes[0])
    return trial.case.with_(tensors=tensors)


def _alike(one: Deviation, other: Deviation) -> bool:
    """Whether two are off by the same, to a tenth: such as by an epsilon that torch adds too."""
    if (one.what, one.got) == (other.what, other.got):
        return True
    try:
        first, second, want = (float(str(text)) for text in (one.got, other.got, other.want))
    except ValueError:
        return False
    nans = np.isnan(first) and np.isnan(second)  # of which each may have shown another element's
    return bool(nans) or abs(first - second) <= SAME_DEVIATION * abs(second - want)


def _share(seconds: float, clause_records: Sequence[ClauseRecord]) -> None:
    """Divide the time that no clause used alone, in proportion to the cases that each judged."""
    rest = max(0.0, seconds - sum(clause_record.seconds for clause_record in clause_records))
    cases = sum(clause_record.examples for clause_record in clause_records)
    for clause_record in clause_records:
        clause_record.share = rest * (
            clause_record.examples / cases if cases else 1 / len(clause_records)
        )


def _brief(error: BaseException) -> str:
    """An error of lossspec or of a spec, with where lossspec raised it."""
    if isinstance(error, SpecError):
        return str(error)
    return "".join(traceback.format_exception(error)[-3:])


def _features(trial: Trial) -> set[Feature]:
    """What is special about a call; what is as it is by default is not."""
    case, known = trial.case, trial.loss.parameters_of(trial.form)
    found = {("dtype", case.dtype), ("reduction", case.reduction), ("form", case.form)}
    found |= {("argument", name) for name in case.tensors if name not in trial.form.tensors}
    return found | {
        ("argument", name)
        for name, parameter in known.items()
        if case.parameters[name] != parameter.default
    }


def _sound(trial: Trial) -> bool:
    """Whether the plain call is right, so that clauses that build on it have something to judge."""
    try:
        return trial.worked and trial.precise and trial.conforms
    except STOPS:
        raise
    except BaseException:  # a clause on the plain call tells
        return True


def _empty(case: Case) -> bool:
    return any(not array.size for array in case.tensors.values())


def deviation_of(clause: Clause, trial: Trial) -> Deviation | None:
    """How a trial breaks a clause, if it does."""
    try:
        with time_limit(), preserved():
            clause.judge(trial)
    except Deviation as deviation:
        return deviation
    except (Unsupported, CallTimeout):
        return None
    return None
