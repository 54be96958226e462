"""The stream of cases of a loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

from lossspec.cases.case import Case
from lossspec.cases.draw import Dealt, drawn
from lossspec.execution.call import unsupported_argument, without
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.costly_cases import Candidate, drawn_for
from lossspec.judging.profiles import Profile
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss

#: Cases drawn at a time: what a stream keeps in memory.
BATCH = 400
#: The first number of the cases that are chosen for costly clauses.
CHOSEN = 10_000_000
#: Added to the seed of the cases that replace those in dtypes that do not work.
REPLACED = 1_000_000


def stream(
    loss: Loss, profile: Profile, start: int, dtypes: tuple[str, ...] | None = None
) -> Iterator[SolvedCase]:
    """The cases of a loss: the same for the same profile, seed and dtypes, on every machine.

    Choices are dealt, not drawn by Hypothesis: its engine mutates earlier cases (of 400, some 240
    were distinct) and mixes in constants from whatever modules are loaded, so that neither would
    every case earn its time, nor would a stream be the same twice.
    """
    cases = profile.cases(loss)
    for batch in range(0, cases, BATCH):
        yield from _batch(loss, start, batch, min(BATCH, cases - batch), dtypes)


@lru_cache(maxsize=1)
def _batch(
    loss: Loss, start: int, batch: int, count: int, dtypes: tuple[str, ...] | None
) -> Sequence[SolvedCase]:
    choose = Dealt(f"{loss.name} {start} {batch}")
    return [SolvedCase(loss, drawn(choose, loss, dtypes)) for _ in range(count)]


def replacements(
    loss: Loss, profile: Profile, start: int, dtypes: tuple[str, ...], count: int
) -> Iterator[SolvedCase]:
    """The cases that replace those in dtypes that do not work: so many, in the dtypes that do."""
    return islice(stream(loss, profile, start + REPLACED, dtypes), count)


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
    solved = next(islice(stream(under_test.loss, profile, start, dtypes), number, None))
    return supported_call(under_test, solved.case, set())


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
