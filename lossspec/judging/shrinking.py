"""Shrink the case of a finding while it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable

from lossspec.cases.case import Case
from lossspec.cases.shrink import shrink
from lossspec.clauses.trial import Deviation, Trial
from lossspec.errors import SpecError
from lossspec.execution.call import unsupported_argument
from lossspec.execution.timeout import STOPS
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.costly_cases import bared
from lossspec.judging.deviation import brief, deviation_of
from lossspec.judging.excuses import Excuses
from lossspec.oracle.solver import SolvedCase
from lossspec.thresholds import PLAIN_FAILURE


def simplest(
    clause_record: ClauseRecord,
    case: Case,
    deviation: Deviation,
    excuses: Excuses,
    after_step: Callable[[], None],
) -> tuple[Case, Deviation]:
    """Return the simplest case found that fails in the same way, and how it fails.

    An error of lossspec or of the spec on the way ends the search, and is noted.

    after_step : called before each attempt.
    """
    found = (case, deviation)

    def keep(simpler: Case, how: Deviation) -> None:
        nonlocal found
        found = simpler, how

    try:
        _shrink(clause_record, case, deviation, excuses, after_step, keep)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        clause_record.mishaps.append(f"the case is not as simple as it could be: {brief(error)}")
    return found


def _shrink(
    clause_record: ClauseRecord,
    case: Case,
    deviation: Deviation,
    excuses: Excuses,
    after_step: Callable[[], None],
    keep: Callable[[Case, Deviation], None],
) -> None:
    """Look for simpler cases that fail in the same way, and hand over each that is found."""
    clause, under_test = clause_record.clause, excuses.under_test

    def judged(candidate: Case, bar: float) -> Deviation | None:
        solved = SolvedCase(under_test.loss, candidate)
        return deviation_of(clause, Trial(under_test, solved, excuses.device, bar=bar))

    bar = PLAIN_FAILURE if judged(case, PLAIN_FAILURE) is not None else 1.0

    def fails(candidate: Case) -> bool:
        after_step()
        if unsupported_argument(under_test, candidate) is not None:
            return False
        try:
            found = judged(candidate, bar)
        except (SpecError, *STOPS):
            raise
        except BaseException:
            return False  # a candidate that the clause cannot judge is no simpler case
        if found is None or found.kind != deviation.kind:
            return False
        if excuses.listed(clause, candidate, found) is not None:
            return False
        trial = excuses.trial(candidate)
        if excuses.by_absence(clause, trial):
            return False
        if excuses.inherited(clause, trial, found) is not None:
            return False
        keep(candidate, found)
        return True

    # An attempt of a costly clause may compile the call several times.
    shrunk = bared if clause.chosen else shrink
    shrunk(under_test.loss, case, fails)
