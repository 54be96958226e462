"""The shrinking of a failing case to a simpler one that fails in the same way."""

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

#: The most attempts with simpler calls, by Hypothesis, and the most attempts with simpler numbers.
STRUCTURES, NUMBERS = 150, 150


def simplest(
    clause_record: ClauseRecord,
    finding: Finding,
    excuses: Excuses,
    after_step: Callable[[], None],
    effort: float = 1.0,
    others: Sequence[Kind] = (),
) -> Finding:
    """Return a finding with the simplest case found that fails in the same way.

    An error in lossspec or in the spec ends the search and is recorded in `clause_record.mishaps`.

    Args:
        clause_record: The record of the clause.
        finding: The finding.
        excuses: Looks up excuses. A case with an excuse does not replace one without.
        after_step: Called before each attempt.
        effort: The share of all attempts to make.
        others: The kinds that are shown already, which the shrunk case must not have.
    """
    search = _Search(clause_record, excuses, finding, after_step, effort, others)
    try:
        search.run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        clause_record.mishaps.append(f"shrinking stopped early with an error: {brief(error)}")
    return search.found


@dataclass
class _Search:
    """A search for simpler cases that fail in the same way as a finding.

    Attributes:
        clause_record: The record of the clause.
        excuses: Looks up excuses.
        found: The finding with the simplest case so far.
        after_step: Called before each attempt.
        effort: The share of all attempts to make.
        others: The kinds that are shown already.
        bar: The error ÷ budget from which a case fails.
    """

    clause_record: ClauseRecord
    excuses: Excuses
    found: Finding
    after_step: Callable[[], None]
    effort: float
    others: Sequence[Kind]
    bar: float = field(init=False, default=1.0)

    def run(self) -> None:
        """Shrink the case. `found` is then the finding with the simplest case."""
        if self._judged(self.found.solved, PLAIN_FAILURE) is not None:
            self.bar = PLAIN_FAILURE
        costly = bool(self.clause_record.clause.chosen)
        shrink(self.found.solved, self._fails, costly=costly, effort=self.effort)

    def _judged(self, solved: SolvedCase, bar: float) -> Deviation | None:
        trial = Trial(self.excuses.under_test, solved, self.excuses.device, bar=bar)
        return deviation_of(self.clause_record.clause, trial)

    def _fails(self, candidate: SolvedCase) -> bool:
        """Return whether a candidate fails in the same way without an excuse; if so, keep it."""
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
            return False  # the clause cannot judge this candidate
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
    """Return the simplest case found that still fails, which may be `solved` itself.

    First Hypothesis shrinks the call. Then each option is removed if the case still fails without
    it, and the numbers are simplified.

    Args:
        solved: The failing case.
        fails: Returns whether a simpler case still fails.
        costly: Whether only the options are removed, because each attempt takes long.
        effort: The share of all attempts to make.
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
    # Hypothesis may fail to remove an option on which the number of choices depends.
    bared(loss, simplest.case, changed_fails)
    if not costly:
        simpler_numbers(loss, simplest.case, changed_fails, round(effort * NUMBERS))
    return simplest
