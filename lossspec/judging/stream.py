"""The stream of cases of a loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

from lossspec.cases.case import Case
from lossspec.cases.draw import Dealt, drawn
from lossspec.execution.call import lacking, without
from lossspec.execution.implementation import Subject
from lossspec.judging.campaign import CHOSEN
from lossspec.judging.costly_cases import drawn_for
from lossspec.judging.profiles import Profile
from lossspec.oracle.solver import Solved
from lossspec.spec.loss import Loss

#: Cases drawn at a time: what a stream keeps in memory.
BATCH = 400


def stream(
    loss: Loss, profile: Profile, start: int, dtypes: tuple[str, ...] | None = None
) -> Iterator[Solved]:
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
) -> Sequence[Solved]:
    choose = Dealt(f"{loss.name} {start} {batch}")
    return [Solved(loss, drawn(choose, loss, dtypes)) for _ in range(count)]


def of_number(
    subject: Subject,
    number: int,
    profile: Profile,
    start: int,
    dtypes: tuple[str, ...] | None = None,
) -> Case | None:
    """The case of a number in the stream, as a subject is called with it, if it is."""
    if number >= CHOSEN:
        return supported_call(
            subject, drawn_for(subject.loss, start, dtypes)[number - CHOSEN].case, set()
        )
    if not 0 <= number < profile.cases(subject.loss):
        return None
    solved = next(islice(stream(subject.loss, profile, start, dtypes), number, None))
    return supported_call(subject, solved.case, set())


def supported_call(subject: Subject, case: Case, unsupported: set[str]) -> Case | None:
    """The case without what the subject lacks, which is noted; None where it is none without it."""
    while (missing := lacking(subject, case)) is not None:
        unsupported.add(missing)
        plainer = without(subject, case, missing)
        if plainer is None:
            return None
        case = plainer.settled(subject.loss)
    return case
