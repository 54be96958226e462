"""The stream of cases of a loss, and the search for cases with larger errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from lossspec.cases.case import Case
from lossspec.cases.hypothesis_runs import climb, generate
from lossspec.cases.strategies import DrawnCase, drawn_cases
from lossspec.execution.call import unsupported_argument, without
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.costly_cases import Candidate, drawn_for
from lossspec.judging.profiles import Profile
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss

#: The number of cases whose right answers are kept for the next campaign of the same loss.
KEPT_SOLVED = 400
#: The number of the first case for costly clauses. Cases of the stream have smaller numbers.
CHOSEN = 10_000_000
#: The seed of the replacement cases is larger by this. They replace cases in unsupported dtypes.
REPLACED = 1_000_000
#: The number of cases with the largest errors from which a search for larger errors starts.
STARTS = 20


def look_at_stream(
    loss: Loss,
    count: int,
    start: int,
    dtypes: tuple[str, ...] | None,
    look: Callable[[SolvedCase], object],
) -> None:
    """Draw cases of a loss; the same seed and dtypes give the same cases on every machine.

    Args:
        loss: The spec of the loss.
        count: The number of cases.
        start: The seed.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.
        look: Called with each case. It may raise `Enough` to end the drawing.
    """
    generate(
        drawn_cases(loss, dtypes),
        _name(loss, start),
        count,
        lambda drawn: look(solved_once(loss, dtypes, drawn)),
    )


def look_for_worse(
    loss: Loss,
    count: int,
    start: int,
    dtypes: tuple[str, ...] | None,
    best: Sequence[SolvedCase],
    score: Callable[[SolvedCase], float],
) -> None:
    """Search for cases with a higher score, with Hypothesis's `target`.

    Args:
        loss: The spec of the loss.
        count: The number of cases to draw.
        start: The seed.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.
        best: The cases to start from.
        score: Judges a case, and returns its score.
    """
    climb(
        drawn_cases(loss, dtypes),
        _name(loss, start),
        count,
        [solved.choices for solved in best],
        lambda drawn: score(solved_once(loss, dtypes, drawn)),
    )


@lru_cache(maxsize=1)  # an audit judges many implementations of one loss on the same cases
def stream(
    loss: Loss, profile: Profile, start: int, dtypes: tuple[str, ...] | None = None
) -> list[SolvedCase]:
    """Return the cases that a profile draws for a loss. The caller must not change the list.

    Args:
        loss: The spec of the loss.
        profile: How many cases are drawn.
        start: The seed.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.
    """
    cases: list[SolvedCase] = []
    look_at_stream(loss, profile.cases(loss), start, dtypes, cases.append)
    return cases


def _name(loss: Loss, start: int) -> str:
    return f"{loss.name} {start} 0"


#: The loss whose right answers are kept, and its solved cases by their dtypes and choices.
_kept: tuple[Loss | None, dict[Any, SolvedCase]] = (None, {})


def solved_once(loss: Loss, dtypes: tuple[str, ...] | None, drawn: DrawnCase) -> SolvedCase:
    """Return a drawn case as a solved case, shared with earlier campaigns of the same loss.

    A right answer is then computed only once.

    Args:
        loss: The spec of the loss.
        dtypes: The dtypes that the case was drawn in. None stands for all dtypes of the loss.
        drawn: The case and its choices.
    """
    global _kept
    if _kept[0] is not loss:
        _kept = (loss, {})
    solved, key = _kept[1], (dtypes, drawn.choices)
    if key not in solved:
        if len(solved) >= KEPT_SOLVED:
            del solved[next(iter(solved))]
        solved[key] = SolvedCase(loss, drawn.case, drawn.choices, dtypes)
    return solved[key]


def candidates(
    under_test: LossUnderTest, start: int, dtypes: tuple[str, ...] | None, unsupported: set[str]
) -> list[Candidate]:
    """Return the cases for costly clauses, without the arguments an implementation does not accept.

    Args:
        under_test: The implementation of the loss.
        start: The seed.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.
        unsupported: The names of arguments that are not accepted, which are added to.
    """
    loss = under_test.loss
    return [
        Candidate(number, SolvedCase(loss, case))
        for number, solved in enumerate(drawn_for(loss, start, dtypes))
        if (case := supported_call(under_test, solved.case, unsupported)) is not None
    ]


def of_number(
    under_test: LossUnderTest,
    number: int,
    profile: Profile,
    start: int,
    dtypes: tuple[str, ...] | None = None,
) -> Case | None:
    """Return the case with a number, without the arguments an implementation does not accept.

    Args:
        under_test: The implementation of the loss.
        number: The number of the case in the stream, or among the cases for costly clauses.
        profile: How many cases are drawn.
        start: The seed.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.

    Returns:
        The case. None if the profile has no such number, or no valid call remains.

    Raises:
        IndexError: There is no such case for costly clauses.
    """
    if number >= CHOSEN:
        return supported_call(
            under_test, drawn_for(under_test.loss, start, dtypes)[number - CHOSEN].case, set()
        )
    if not 0 <= number < profile.cases(under_test.loss):
        return None
    return supported_call(under_test, _numbered(under_test.loss, number, start, dtypes), set())


def _numbered(loss: Loss, number: int, start: int, dtypes: tuple[str, ...] | None) -> Case:
    """Return the case with a number in the stream."""
    found: list[Case] = []
    strategy = drawn_cases(loss, dtypes)
    generate(strategy, _name(loss, start), number + 1, lambda drawn: found.append(drawn.case))
    return found[number]


def supported_call(under_test: LossUnderTest, case: Case, unsupported: set[str]) -> Case | None:
    """Drop the arguments that an implementation does not accept, and record them.

    Args:
        under_test: The implementation of the loss.
        case: The case.
        unsupported: The set that receives the names of the dropped arguments.

    Returns:
        The remaining case. None if it is not valid.
    """
    while (missing := unsupported_argument(under_test, case)) is not None:
        unsupported.add(missing)
        plainer = without(under_test, case, missing)
        if plainer is None:
            return None
        case = plainer.settled(under_test.loss)
    return case
