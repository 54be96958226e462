"""The few cases for clauses that are too costly to judge many, chosen by the options they show.

An option is an optional tensor that is passed, or a parameter with a value other than the default.
A case shows an option if the right answer changes without it. An implementation that ignores the
option then returns a wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, TypeVar

import numpy as np

from lossspec.cases.case import Case
from lossspec.cases.draw import Choices
from lossspec.cases.hypothesis_runs import generate
from lossspec.cases.shrink import sound_change
from lossspec.cases.strategies import drawn_cases
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex
from lossspec.thresholds import FRUITLESS_COSTLY_CASES, OPTION_SHOWS

T = TypeVar("T")

#: The numbers of cases that are drawn to choose from: with all options and reduction `mean`, with
#: all options and any reduction, and without options.
MEANS, OTHERS, PLAIN = 32, 8, 8
#: The most cases with all options that are judged, even if a loss has more forms.
MOST = 4


#: For each choice of a draw, the values that do not hide an option.
PREFERRED: Mapping[str, tuple[Any, ...]] = {
    "plain": (False,),
    "sizes": ("small", "distinct", "square", "crossed", "even"),
    "masked": ("no",),
    "filled": ("plain",),
    "layouts": ("none",),
    "ignored": ("some",),
    "dtype": ("float32", "float64"),
}


class Switched:
    """Random choices that switch all options of a loss on, or all off.

    They also avoid values that could hide the effect of an option: unusual layouts and target
    dtypes, masked classes, and ignored rows filled with NaN. All other choices are unchanged.
    """

    def __init__(self, choose: Choices, loss: Loss, on: bool, mean: bool = False) -> None:
        self.choose, self.loss, self.on, self.mean = choose, loss, on, mean
        #: The parameters whose value marks ignored elements, such as `ignore_index`.
        self.sentinels = {
            role.ignored_by
            for form in loss.forms
            for role in form.tensors.values()
            if isinstance(role, ClassIndex)
        }

    def __call__(self, what: str, options: Sequence[T]) -> T:
        """Choose one of the suitable values, or of all values if none is suitable."""
        return self.choose(what, self._suiting(what, options) or options)

    def seed(self) -> int:
        """Return the seed that the values of the tensors are generated from."""
        return self.choose.seed()

    def _suiting(self, what: str, options: Sequence[T]) -> Sequence[T]:
        what = what.partition(" (")[0]  # the rest says for which cases the choice is of its own
        if what == "default parameters":
            return [option for option in options if option is not self.on]
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
                # An ignored index must be a class: without the option, another index may raise.
                usable = [option for option in usable if option in (0, 1)] or usable
            return [o for o in usable if (o != parameter.default) == self.on] or usable
        if what.removeprefix("with ") in self.loss.options:
            return [option for option in options if option == self.on]
        return options


class Candidate:
    """A case that may be chosen, with the options that it shows."""

    def __init__(self, number: int, solved: SolvedCase) -> None:
        self.number = number
        self.solved = solved
        #: The names of the options that are on.
        self.options = options(solved.loss, solved.case)

    @cached_property
    def shows(self) -> frozenset[tuple[str, str]]:
        """The form, each option that changes the right answer, and whether there are several axes.

        An implementation may confuse the sizes of several axes, for example in a divisor.
        """
        form, given = self.solved.case.form, (n for n in self.options if shows(self.solved, n))
        several = {("several axes", "")} if len(self.solved.case.shape.result) > 1 else set()
        return frozenset((form, name) for name in ("", *given)) | several


@lru_cache(maxsize=1)  # both surfaces of a loss choose among the same cases
def drawn_for(
    loss: Loss, start: int, dtypes: tuple[str, ...] | None = None
) -> Sequence[SolvedCase]:
    """Draw the cases to choose from; the same seed and dtypes give the same cases everywhere.

    Args:
        loss: The spec of the loss.
        start: The seed.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.
    """
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
    """Yield the case that shows most, again and again, until every option is shown.

    A case without options follows, and then further cases until `count` cases were judged. The
    generator gives up on an implementation after `FRUITLESS_COSTLY_CASES` failures.

    The caller sends True for a case that was judged. It sends False if the implementation does not
    work in the way that the clause calls it, and None if the case does not meet a precondition.

    Args:
        candidates: The cases to choose from.
        count: The smallest number of cases to judge.

    Yields:
        The next case to judge.
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
        """Rank by what is new, then a mean or a new reduction, then the lower number."""
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
    """Judge the chosen cases one after another, as long as the clause needs more.

    Args:
        candidates: The cases to choose from.
        count: The smallest number of cases to judge.
        learns: Returns whether the clause needs more cases.
        judge: Judges a case, and returns True, False or None as described in `chosen`.
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
    """Return the names of the optional tensors and the non-default parameters of a case."""
    known = loss.parameters_of(loss.form(case.form))
    given = [name for name in case.tensors if name in loss.options]
    return given + [n for n in known if case.parameters[n] != loss.parameters[n].default]


def lost(loss: Loss, case: Case, name: str) -> Case | None:
    """Return a case without one of its options, as if the implementation ignored it.

    Args:
        loss: The spec of the loss.
        case: The case.
        name: The name of the option.

    Returns:
        The case without the option. None if no form of the loss allows such a call.
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
    """Return a case without the options that it does not need in order to fail.

    Args:
        loss: The spec of the loss.
        case: The failing case.
        fails: Returns whether a simpler case still fails. Each option is tried once.
    """
    for name in options(loss, case):
        without = lost(loss, case, name)
        other = None if without is None else sound_change(loss, case, without)
        if other is not None and fails(other):
            case = other
    return case


def shows(solved: SolvedCase, name: str) -> bool:
    """Return whether the right value of a case changes plainly without one of its options."""
    loss, case = solved.loss, solved.case
    other = lost(loss, case, name)
    # An invalid class index may raise an error, which would count as an unsupported call.
    if other is None or not _valid(loss, other):
        return False
    want = solved.expected.value(case.reduction)
    with np.errstate(all="ignore"):
        got = SolvedCase(loss, other).expected.value(case.reduction).exact
        if not want.informative or want.exact.shape != got.shape:
            return False
        return bool((want.error(got) > OPTION_SHOWS).any())


def _valid(loss: Loss, case: Case) -> bool:
    """Return whether every class index is a class or an allowed value such as `ignore_index`."""
    sizes = case.axis_sizes(loss)
    return all(
        role.allows(case.tensors[name], sizes[role.classes], case.parameters).all()
        for name, role in loss.form(case.form).tensors.items()
        if isinstance(role, ClassIndex)
    )
