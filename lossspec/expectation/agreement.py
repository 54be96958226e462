"""The comparison of a result with the right answer: right or wrong, where, and by how much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from lossspec.dtypes import Extended, Precision, precision
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.expected import Whole
from lossspec.oracle.parts import GradientPart

#: The reasons why a number is not compared.
IGNORED = "in an ignored row"
NOT_FINITE = "the exact number is not finite"
TOO_SMALL = "the input is too small in the dtype for a comparison of gradients"
OVERFLOW = "the formula overflows in the dtype, or too many kinks meet"
NO_ELEMENTS = "the mean of no elements"


@dataclass(frozen=True)
class Worst:
    """The number with the largest error, measured in budgets.

    Attributes:
        index: The place of the number in its tensor.
        got: The number in the result.
        want: The exact number.
        budget: The largest error that is accepted.
        budgets: The error divided by the budget.
        ulps: The error in ulps of the dtype.
    """

    index: tuple[int, ...]
    got: float
    want: float
    budget: float
    budgets: float
    ulps: float

    def __str__(self) -> str:
        place = f" at {list(self.index)}" if self.index else ""
        digits = next((n for n in (7, 9, 17) if f"{self.got:.{n}g}" != f"{self.want:.{n}g}"), 17)
        off = f"{_short(self.budgets)} budgets, {_short(self.ulps)} ulps off"
        return f"{place} is {self.got:.{digits}g}, want {self.want:.{digits}g}: {off}".lstrip()


@dataclass(frozen=True)
class Comparison:
    """The comparison of one tensor with its right answer; true if it is right.

    Attributes:
        what: `value` or `gradient of NAME`.
        problem: Why there are no numbers to compare, or None.
        compared: How many numbers were compared.
        wrong: How many of these exceed their budget.
        not_asked: How many numbers were not compared, by reason.
        worst: The number with the largest error; None if nothing was compared.
    """

    what: str
    problem: str | None = None
    compared: int = 0
    wrong: int = 0
    not_asked: Counter[str] = field(default_factory=Counter)
    worst: Worst | None = None

    def __bool__(self) -> bool:
        return self.problem is None and not self.wrong

    def plus(self, other: Comparison) -> Comparison:
        """Return the comparison of two parts of one tensor, added up."""
        worst = max((self.worst, other.worst), key=lambda one: one.budgets if one else -1.0)
        return Comparison(
            self.what,
            self.problem or other.problem,
            self.compared + other.compared,
            self.wrong + other.wrong,
            self.not_asked + other.not_asked,
            worst,
        )

    def __str__(self) -> str:
        if self.problem is not None:
            return f"{self.what}: {self.problem}"
        asked = f"{self.wrong:,} of {self.compared:,} numbers wrong" if self.wrong else "right"
        if not self.wrong:
            asked += f", {self.compared:,} number{'' if self.compared == 1 else 's'} compared"
        left = "".join(f"; {count:,} not compared: {why}" for why, count in self.not_asked.items())
        if self.worst is None:
            return f"{self.what}: {asked}{left}"
        place = f" at {list(self.worst.index)}" if self.worst.index else ""
        if self.wrong:
            return f"{self.what} {self.worst}; {asked}{left}"
        far = f"{_short(self.worst.budgets)} budgets, {_short(self.worst.ulps)} ulps off{place}"
        return f"{self.what}: {asked}, the worst {far}{left}"


@dataclass(frozen=True, repr=False)
class Agreement:
    """The comparisons of all tensors of a result; true if every tensor is right.

    `str` prints one line for each tensor; `repr` prints one line for the worst tensor.

    Attributes:
        comparisons: One comparison for each tensor, the value first.
    """

    comparisons: tuple[Comparison, ...]

    def __bool__(self) -> bool:
        return all(self.comparisons)

    def __str__(self) -> str:
        head = "right" if self else "wrong"
        return "\n".join([head, *(f"  {one}" for one in self.comparisons)])

    def __repr__(self) -> str:
        if self:
            return f"<right: {'; '.join(str(one) for one in self.comparisons)}>"
        wrong = [one for one in self.comparisons if not one]
        first = next((one for one in wrong if one.problem), None)
        if first is None:
            first = max(wrong, key=lambda one: one.worst.budgets if one.worst else 0.0)
        # The worst tensor comes first, since pytest shortens a long repr in the middle.
        brief = replace(first, not_asked=Counter())
        also = [one.what for one in wrong if one is not first]
        return f"<wrong: {brief}{'; wrong as well: ' if also else ''}{', '.join(also)}>"


def compared(what: str, got: np.ndarray, want: Bounded, why: dict[str, np.ndarray]) -> Comparison:
    """Compare numbers with the right answer.

    Args:
        what: `value` or `gradient of NAME`.
        got: The numbers of the result.
        want: The exact numbers and budgets, of the same shape.
        why: For each reason, a mask of the numbers that are not compared because of it.
    """
    got, want = want.settled(got)
    error = want.error(got)
    left = np.isposinf(want.budget)
    reasons: Counter[str] = Counter()
    untold = left.copy()
    for reason, where in why.items():
        reasons[reason] += int((untold & where).sum())
        untold &= ~where
    reasons[OVERFLOW] += int(untold.sum())
    asked = int(error.size - left.sum())
    worst = None
    if asked:
        at = np.unravel_index(int(np.where(left, -1, error).argmax()), error.shape)
        worst = _worst(tuple(map(int, at)), got[at], want, float(error[at]))
    return Comparison(
        what,
        None,
        asked,
        int((error > 1).sum()),
        Counter({w: n for w, n in reasons.items() if n}),
        worst,
    )


def compared_gradient(part: GradientPart, got: np.ndarray, given: np.ndarray) -> Comparison:
    """Compare the gradient of a part of a tensor with the right answer.

    Args:
        part: The right answer for the part.
        got: The gradient of the part.
        given: The numbers of the part in the input.
    """
    what = f"gradient of {part.name}"
    if part.bounded is None:
        return Comparison(what, not_asked=Counter({NO_ELEMENTS: got.size} if got.size else {}))
    reasons = {
        IGNORED: part.ignored,
        NOT_FINITE: ~np.isfinite(part.bounded.exact),
        TOO_SMALL: part.whole.too_small(given),
    }
    found = compared(what, got, part.bounded, reasons)
    return replace(found, worst=found.worst and _moved(found.worst, part))


def compared_value(got: np.ndarray, want: Bounded, whole: Whole) -> Comparison:
    """Compare the value with the right answer; the mean of no elements must be nan."""
    return compared("value", got, want, {NOT_FINITE: ~np.isfinite(want.exact)})


def _moved(worst: Worst, part: GradientPart) -> Worst:
    """Return the number with its index in the whole tensor instead of in the part."""
    starts = (one.start or 0 for one in part.index)
    return replace(worst, index=tuple(i + n for i, n in zip(worst.index, starts, strict=True)))


def _worst(index: tuple[int, ...], got: np.floating, want: Bounded, budgets: float) -> Worst:
    low, high, exact = want.low[index], want.high[index], want.exact[index]
    with np.errstate(all="ignore"):
        nearest = exact if low == high else np.clip(got, low, high)
        ulps = float(abs(got - nearest) / ulp(nearest, precision(want.dtype)))
    if np.isnan(got) and np.isnan(exact):
        ulps = 0.0
    return Worst(index, float(got), float(exact), float(want.budget[index]), budgets, ulps)


def ulp(number: np.floating, dtype: Precision) -> np.floating:
    """Return one ulp: the distance between a number and the next one in a dtype."""
    if not np.isfinite(number) or number == 0:
        return Extended(dtype.smallest)
    spacing = 2 * Extended(dtype.unit) * Extended(2) ** np.floor(np.log2(abs(number)))
    return Extended(max(spacing, Extended(dtype.smallest)))


def _short(number: float) -> str:
    return f"{number:.3g}"
