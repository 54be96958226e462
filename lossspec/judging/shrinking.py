"""Shrink the case of a finding while it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lossspec.cases.case import Case
from lossspec.cases.hypothesis_runs import shrink_choices
from lossspec.cases.shrink import simpler_numbers
from lossspec.cases.strategies import DrawnCase, drawn_cases
from lossspec.clauses.trial import Deviation, Trial
from lossspec.errors import SpecError
from lossspec.execution.timeout import STOPS
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.costly_cases import bared
from lossspec.judging.deviation import brief, deviation_of
from lossspec.judging.excuses import Excuses
from lossspec.judging.finding import Finding
from lossspec.judging.kinds import Kind, explains, kind_of
from lossspec.judging.stream import supported_call
from lossspec.oracle.solver import SolvedCase
from lossspec.thresholds import PLAIN_FAILURE

#: How often Hypothesis may try a simpler call, and how often a simpler number may be tried.
STRUCTURES, NUMBERS = 150, 150


def simplest(
    clause_record: ClauseRecord,
    finding: Finding,
    excuses: Excuses,
    after_step: Callable[[], None],
    effort: float = 1.0,
    others: Sequence[Kind] = (),
) -> Finding:
    """Return the finding as the simplest case that fails in the same way shows it.

    An error of lossspec or of the spec on the way ends the search, and is noted.

    after_step : called before each attempt. effort : the share of all attempts that is made.
    others : kinds of deviations that are shown already, to which no simpler case may slip.
    """
    search = _Search(clause_record, excuses, finding, after_step, effort, others)
    try:
        search.run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        clause_record.mishaps.append(f"the case is not as simple as it could be: {brief(error)}")
    return search.found


@dataclass
class _Search:
    """Looks for simpler cases that fail as a finding does.

    found : the finding as the simplest case so far shows it.
    """

    clause_record: ClauseRecord
    excuses: Excuses
    found: Finding
    after_step: Callable[[], None]
    effort: float
    others: Sequence[Kind]
    bar: float = field(init=False, default=1.0)

    def run(self) -> None:
        """Shrink the case, and keep the finding as the simplest one shows it."""
        if self._judged(self.found.solved, PLAIN_FAILURE) is not None:
            self.bar = PLAIN_FAILURE
        costly = bool(self.clause_record.clause.chosen)
        shrink(self.found.solved, self._fails, costly=costly, effort=self.effort)

    def _judged(self, solved: SolvedCase, bar: float) -> Deviation | None:
        trial = Trial(self.excuses.under_test, solved, self.excuses.device, bar=bar)
        return deviation_of(self.clause_record.clause, trial)

    def _fails(self, candidate: SolvedCase) -> bool:
        """Whether a candidate fails in the same way, and nothing excuses it; it is kept then."""
        self.after_step()
        under_test, clause = self.excuses.under_test, self.clause_record.clause
        case = supported_call(under_test, candidate.case, set())
        if case is None:
            return False
        solved = candidate if case is candidate.case else candidate.changed(case)
        try:
            deviation = self._judged(solved, self.bar)
        except (SpecError, *STOPS):
            raise
        except BaseException:
            return False  # a candidate that the clause cannot judge is no simpler case
        if deviation is None or deviation.kind != self.found.deviation.kind:
            return False
        if any(explains(other, kind_of(solved, deviation)) for other in self.others):
            return False
        trial = Trial(under_test, solved, self.excuses.device)
        if self.excuses.of(clause, trial, deviation)[0] is not None:
            return False
        self.found = self.found.with_(solved, deviation)
        return True


def shrink(
    solved: SolvedCase,
    fails: Callable[[SolvedCase], bool],
    *,
    costly: bool = False,
    effort: float = 1.0,
) -> SolvedCase:
    """Return the simplest case found that still fails: `solved` itself if nothing simpler does.

    Hypothesis shrinks the call, then its options are tried once more, then its numbers.

    costly : whether an attempt takes so long that only the options are tried. effort : the share of
    all attempts that is made.
    """
    loss, simplest = solved.loss, solved

    def still_fails(candidate: SolvedCase) -> bool:
        nonlocal simplest
        if not fails(candidate):
            return False
        simplest = candidate
        return True

    def drawn_fails(drawn: DrawnCase) -> bool:
        return still_fails(SolvedCase(loss, drawn.case, drawn.choices, solved.dtypes))

    def changed_fails(case: Case) -> bool:
        return still_fails(simplest.changed(case))

    if solved.choices and not costly:
        strategy = drawn_cases(loss, solved.dtypes)
        shrink_choices(strategy, solved.choices, drawn_fails, round(effort * STRUCTURES))
    # Where an option decides how many choices there are, Hypothesis may not get rid of it.
    bared(loss, simplest.case, changed_fails)
    if not costly:
        simpler_numbers(loss, simplest.case, changed_fails, round(effort * NUMBERS))
    return simplest
