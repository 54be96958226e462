"""The stream of cases of a loss."""

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

#: Solved cases that are kept for the next campaign of the same loss.
KEPT_SOLVED = 400
#: The first number of the cases that are chosen for costly clauses.
CHOSEN = 10_000_000
#: Added to the seed of the cases that replace those in dtypes that do not work.
REPLACED = 1_000_000
#: The best cases of a stream, from which a search for larger errors sets out.
STARTS = 20


def look_at_stream(
    loss: Loss,
    count: int,
    start: int,
    dtypes: tuple[str, ...] | None,
    look: Callable[[SolvedCase], object],
) -> None:
    """Look at so many cases of a loss, drawn by Hypothesis.

    The cases are the same for the same seed and dtypes, on every machine. look : may raise Enough.
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
    """Look at so many cases more, each sought where the score was highest so far.

    best : the cases to set out from.
    """
    climb(
        drawn_cases(loss, dtypes),
        _name(loss, start),
        count,
        [solved.choices for solved in best],
        lambda drawn: score(solved_once(loss, dtypes, drawn)),
    )


@lru_cache(maxsize=1)  # an audit judges many implementations of a loss on the same cases
def stream(
    loss: Loss, profile: Profile, start: int, dtypes: tuple[str, ...] | None = None
) -> list[SolvedCase]:
    """The cases that a profile draws of a loss; not to be changed."""
    cases: list[SolvedCase] = []
    look_at_stream(loss, profile.cases(loss), start, dtypes, cases.append)
    return cases


def _name(loss: Loss, start: int) -> str:
    return f"{loss.name} {start} 0"


#: The loss whose solved cases are kept, and these by their dtypes and choices.
_kept: tuple[Loss | None, dict[Any, SolvedCase]] = (None, {})


def solved_once(loss: Loss, dtypes: tuple[str, ...] | None, drawn: DrawnCase) -> SolvedCase:
    """The case with its right answer, which another campaign of the loss may have computed."""
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
    """The cases among which costly clauses choose, as an implementation is called with them."""
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
    """The case of a number in the stream, as an implementation is called with it, if it is."""
    if number >= CHOSEN:
        return supported_call(
            under_test, drawn_for(under_test.loss, start, dtypes)[number - CHOSEN].case, set()
        )
    if not 0 <= number < profile.cases(under_test.loss):
        return None
    return supported_call(under_test, _numbered(under_test.loss, number, start, dtypes), set())


def _numbered(loss: Loss, number: int, start: int, dtypes: tuple[str, ...] | None) -> Case:
    """Return the case of a number in the stream."""
    found: list[Case] = []
    strategy = drawn_cases(loss, dtypes)
    generate(strategy, _name(loss, start), number + 1, lambda drawn: found.append(drawn.case))
    return found[number]


def supported_call(under_test: LossUnderTest, case: Case, unsupported: set[str]) -> Case | None:
    """Drop arguments that the implementation does not take, and record them.

    None if the remaining call is not valid.
    """
    while (missing := unsupported_argument(under_test, case)) is not None:
        unsupported.add(missing)
        plainer = without(under_test, case, missing)
        if plainer is None:
            return None
        case = plainer.settled(under_test.loss)
    return case
