"""Shrink the case of a finding while it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lossspec.cases.case import Case
from lossspec.cases.hypothesis_runs import shrink_choices
from lossspec.cases.shrink import simpler_numbers
from lossspec.cases.strategies import DrawnCase, drawn_cases
from lossspec.clauses.trial import Deviation, Trial
from lossspec.errors import SpecError
from lossspec.execution.call import unsupported_argument
from lossspec.execution.timeout import STOPS
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.costly_cases import bared
from lossspec.judging.deviation import brief, deviation_of
from lossspec.judging.excuses import Excuses
from lossspec.judging.finding import Finding
from lossspec.judging.stream import supported_call
from lossspec.oracle.solver import SolvedCase
from lossspec.thresholds import PLAIN_FAILURE

#: How often Hypothesis may try a simpler call, and how often a simpler number may be tried.
STRUCTURES, NUMBERS = 250, 200


def simplest(
    clause_record: ClauseRecord,
    finding: Finding,
    excuses: Excuses,
    after_step: Callable[[], None],
) -> Finding:
    """Return the finding as the simplest case that fails in the same way shows it.

    An error of lossspec or of the spec on the way ends the search, and is noted.

    after_step : called before each attempt.
    """
    search = _Search(clause_record, excuses, finding, after_step)
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
    bar: float = field(init=False, default=1.0)

    def run(self) -> None:
        """Shrink the call, then its numbers; of a costly clause its options only."""
        under_test = self.excuses.under_test
        loss = under_test.loss
        if self._judged(self.found.solved, PLAIN_FAILURE) is not None:
            self.bar = PLAIN_FAILURE
        if self.clause_record.clause.chosen:
            bared(loss, self.found.case, self._fails)
            return
        drawn = self.found.solved
        if drawn.choices:
            strategy = drawn_cases(loss, drawn.dtypes)
            shrink_choices(strategy, drawn.choices, self._drawn_fails, STRUCTURES)
        simpler_numbers(loss, self.found.case, self._fails, NUMBERS)

    def _drawn_fails(self, drawn: DrawnCase) -> bool:
        """Whether a case fails in the same way as the implementation is called with it."""
        case = supported_call(self.excuses.under_test, drawn.case, set())
        return case is not None and self._fails(case, drawn.choices)

    def _judged(self, solved: SolvedCase, bar: float) -> Deviation | None:
        trial = Trial(self.excuses.under_test, solved, self.excuses.device, bar=bar)
        return deviation_of(self.clause_record.clause, trial)

    def _fails(self, candidate: Case, choices: tuple[int, ...] | None = None) -> bool:
        """Whether a candidate fails in the same way, and nothing excuses it; it is kept then.

        choices : what it was drawn with; None for those of the case that it was made from.
        """
        self.after_step()
        under_test, clause = self.excuses.under_test, self.clause_record.clause
        if unsupported_argument(under_test, candidate) is not None:
            return False
        solved = self.found.solved.changed(candidate)
        if choices is not None:
            solved.choices = choices
        try:
            deviation = self._judged(solved, self.bar)
        except (SpecError, *STOPS):
            raise
        except BaseException:
            return False  # a candidate that the clause cannot judge is no simpler case
        if deviation is None or deviation.kind != self.found.deviation.kind:
            return False
        trial = Trial(under_test, solved, self.excuses.device)
        if self.excuses.of(clause, trial, deviation)[0] is not None:
            return False
        self.found = self.found.with_(solved, deviation)
        return True
