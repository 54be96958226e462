"""Cases for clauses that cost too much to judge many: chosen by the options that they show.

An option is an optional tensor that is given, or a parameter that has not its default. A case shows
it when the right answer without it is another one, so that an implementation which loses the
option is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, TypeVar

import numpy as np

from lossspec.cases.case import Case
from lossspec.cases.draw import Choices
from lossspec.cases.hypothesis_runs import generate
from lossspec.cases.strategies import drawn_cases
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex
from lossspec.thresholds import FRUITLESS_COSTLY_CASES, OPTION_SHOWS

T = TypeVar("T")

#: Cases that are drawn to choose from, with every option on (of a mean, of any reduction) and with
#: none.
MEANS, OTHERS, PLAIN = 32, 8, 8
#: So many cases with every option on are enough, though a loss may have more forms.
MOST = 4


#: By what is chosen, the options to choose from.
PREFERRED: Mapping[str, tuple[Any, ...]] = {
    "plain": (False,),
    "sizes": ("small", "distinct", "square"),
    "masked": ("no",),
    "filled": ("plain",),
    "layouts": ("none",),
    "ignored": ("some",),
    "dtype": ("float32", "float64"),
}


class Switched:
    """Choices that switch every option on, or every one off; the others are as they come.

    It keeps what would hide an option out of the case: odd layouts and dtypes of targets, masked
    classes, and ignored rows filled with nan.
    """

    def __init__(self, choose: Choices, loss: Loss, on: bool, mean: bool = False) -> None:
        self.choose, self.loss, self.on, self.mean = choose, loss, on, mean
        #: The parameters that mark ignored elements.
        self.sentinels = {
            role.ignored_by
            for form in loss.forms
            for role in form.tensors.values()
            if isinstance(role, ClassIndex)
        }

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """One of the options that suit."""
        return self.choose(what, self._suiting(what, options) or options)

    def seed(self) -> int:
        """What dense values are made from."""
        return self.choose.seed()

    def _suiting(self, what: str, options: Sequence[T]) -> Sequence[T]:
        if what in PREFERRED:
            return [option for option in options if option in PREFERRED[what]]
        if what == "reduction" and self.mean:
            return [option for option in options if option == "mean"]
        if what in ("requires_grad", "index dtype"):
            return options[:1]
        if what in self.loss.parameters:
            parameter = self.loss.parameters[what]
            usable = [option for option in options if option not in parameter.limited]
            if self.on and what in self.sentinels:
                # Only an ignored class counts when it is lost; any other index may raise.
                usable = [option for option in usable if option in (0, 1)] or usable
            return [o for o in usable if (o != parameter.default) == self.on] or usable
        if what.removeprefix("with ") in self.loss.options:
            return [option for option in options if option == self.on]
        return options


class Candidate:
    """A case that may be chosen, and what it shows."""

    def __init__(self, number: int, solved: SolvedCase) -> None:
        self.number = number
        self.solved = solved
        #: The options that are on.
        self.options = options(solved.loss, solved.case)

    @cached_property
    def shows(self) -> frozenset[tuple[str, str]]:
        """The form, each option without which the right answer is another one, and several axes.

        The sizes of several axes can be mistaken for one another, as in the divisor of a mean.
        """
        form, given = self.solved.case.form, (n for n in self.options if shows(self.solved, n))
        several = {("several axes", "")} if len(self.solved.case.shape.result) > 1 else set()
        return frozenset((form, name) for name in ("", *given)) | several


@lru_cache(maxsize=1)  # both surfaces of a loss choose among the same
def drawn_for(
    loss: Loss, start: int, dtypes: tuple[str, ...] | None = None
) -> Sequence[SolvedCase]:
    """The cases to choose from: the same for the same seed and dtypes, on every machine."""
    cases: list[SolvedCase] = []
    for on, mean, count in ((True, True, MEANS), (True, False, OTHERS), (False, False, PLAIN)):
        narrow = partial(Switched, loss=loss, on=on, mean=mean)
        generate(
            drawn_cases(loss, dtypes, narrow),
            f"{loss.name} {start} {on} {mean}",
            count,
            lambda drawn: cases.append(SolvedCase(loss, drawn.case)),
        )
    return cases


def chosen(candidates: Sequence[Candidate], count: int) -> Generator[Candidate, bool | None]:
    """Yield the cases that show most, until all is shown, then a plain one, `count` or more.

    Send what came of each: whether it was judged, False where the implementation does not work
    that way, None where the clause has nothing to say of it. An implementation that never works is
    given up after a few.
    """
    shown: set[tuple[str, str]] = set()
    reductions: set[str] = set()
    left = [candidate for candidate in candidates if candidate.options]
    plain = [candidate for candidate in candidates if not candidate.options]
    judged = 0

    def best(pool: list[Candidate]) -> Candidate:
        found = max(pool, key=rank)
        pool.remove(found)
        return found

    def rank(one: Candidate) -> tuple[int, bool, int]:
        """What it shows; then a mean, and other reductions after that."""
        reduction = one.solved.case.reduction
        fresh = reduction not in reductions if reductions else reduction == "mean"
        return len(one.shows - shown), fresh, -one.number

    failed = 0
    while (
        any(one.shows - shown for one in left) and failed < FRUITLESS_COSTLY_CASES and judged < MOST
    ):
        candidate = best(left)
        came = yield candidate
        failed += came is False
        if came:
            judged += 1
            shown |= candidate.shows
            reductions.add(candidate.solved.case.reduction)
    failed = 0
    for pool, enough in ((plain, judged + 1), (left, count), (plain, count)):
        while pool and failed < FRUITLESS_COSTLY_CASES and judged < enough:
            candidate = best(pool)
            came = yield candidate
            failed += came is False
            if came:
                judged += 1
                reductions.add(candidate.solved.case.reduction)


def judge_chosen(
    candidates: Sequence[Candidate],
    count: int,
    learns: Callable[[], bool],
    judge: Callable[[Candidate], bool | None],
) -> None:
    """Judge the chosen cases one after another, as long as another one may tell something.

    judge : what is sent to `chosen` for a case.
    """
    choice = chosen(candidates, count)
    candidate = next(choice, None)
    while candidate is not None and learns():
        came = judge(candidate)
        try:
            candidate = choice.send(came)
        except StopIteration:
            return


def options(loss: Loss, case: Case) -> list[str]:
    """The optional tensors that a case gives, and its parameters that have not their default."""
    known = loss.parameters_of(loss.form(case.form))
    given = [name for name in case.tensors if name in loss.options]
    return given + [n for n in known if case.parameters[n] != loss.parameters[n].default]


def lost(loss: Loss, case: Case, name: str) -> Case | None:
    """The call that an implementation makes of a case when it loses one of its options.

    None where that is a call of no form.
    """
    if name in loss.options:
        return case.with_(
            tensors={n: x for n, x in case.tensors.items() if n != name},
            layouts={n: x for n, x in case.layouts.items() if n != name},
            requires_grad=tuple(n for n in case.requires_grad if n != name),
        )
    default, mine = loss.parameters[name].default, loss.form(case.form)
    parameters = {**case.parameters, name: default}
    for form in loss.forms if name in mine.fixed else (mine,):
        fits = [*form.tensors] == [*mine.tensors] and case.contract in form.shapes
        known = loss.parameters_of(form)
        if fits and form.fixed.get(name, default) == default and {*known} <= {*parameters}:
            return case.with_(form=form.name, parameters={n: parameters[n] for n in known})
    return None


def bared(loss: Loss, case: Case, fails: Callable[[Case], bool]) -> Case:
    """The case without the options that it fails without as well, each tried once."""
    for name in options(loss, case):
        other = lost(loss, case, name)
        if other is not None and _valid(loss, other):
            other = other.settled(loss)
            case = other if fails(other) else case
    return case


def shows(solved: SolvedCase, name: str) -> bool:
    """Whether a case without one of its options has plainly another value."""
    loss, case = solved.loss, solved.case
    other = lost(loss, case, name)
    # A class that is none may raise, as does what does not work at all, which nobody is held to.
    if other is None or not _valid(loss, other):
        return False
    want = solved.expected.value(case.reduction)
    with np.errstate(all="ignore"):
        got = SolvedCase(loss, other).expected.value(case.reduction).exact
        if not want.informative or want.exact.shape != got.shape:
            return False
        return bool((want.error(got) > OPTION_SHOWS).any())


def _valid(loss: Loss, case: Case) -> bool:
    """Whether every class index is one, or stands for something else by the contract."""
    sizes = case.axis_sizes(loss)
    return all(
        role.allows(case.tensors[name], sizes[role.classes], case.parameters).all()
        for name, role in loss.form(case.form).tensors.items()
        if isinstance(role, ClassIndex)
    )
