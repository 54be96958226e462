"""Numbers with an error budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lossspec.dtypes import precision
from lossspec.excuse import Excuse
from lossspec.thresholds import INFORMATIVE, SLACK

#: The count of the numbers that are asked for, beside the reasons of those that are not.
ASKED = "asked"
#: Why nothing is asked of a number. The first one stands for all that is not known better; where a
#: number is made of several, the last one of their reasons is its own.
REASONS = (
    Excuse.UNDEFINED,
    Excuse.TOO_UNCERTAIN,
    Excuse.SUBNORMAL,
    Excuse.KINK,
    Excuse.OVERFLOW,
    Excuse.IGNORED,
)


def why_open(excuse: Excuse, numbers: np.ndarray) -> np.ndarray:
    """The place of a reason where it holds for numbers, and 0 elsewhere."""
    return np.where(numbers, np.int8(REASONS.index(excuse)), np.int8(0))


def roundings(terms: float, parts: int = 1) -> float:
    """The roundings of a sum, to be multiplied by unit roundoff, Σ|term| and `SLACK`.

    A pairwise sum rounds log₂(terms) times. A sum that is taken in parts, one after the other,
    rounds once more for each part behind the first; each of these roundings is at most
    u·Σ|term| in whichever order the parts come, so `SLACK` does not multiply them.

    terms : how many numbers are added. parts : how many parts the call's parameters ask for.
    """
    serial = max(min(parts, terms) - 1, 0)
    return float(np.log2(max(terms, 1))) + serial / SLACK


@dataclass(frozen=True)
class Bounded:
    """Numbers known to lie in `[low - budget, high + budget]`.

    `low` and `high` differ from `exact` only at a kink. An infinite budget is a number that the
    textbook formula cannot compute in the dtype either: nothing is asked there. free_axis : the
    axis along which a constant is left open; None where every number is asked for. why : for each
    number with an infinite budget, the place of the reason in `REASONS`; None where all is finite.
    """

    exact: np.ndarray
    budget: np.ndarray
    low: np.ndarray
    high: np.ndarray
    dtype: str
    free_axis: int | None = None
    why: np.ndarray | None = None

    @classmethod
    def around(
        cls,
        exact: Any,
        budget: Any,
        dtype: str,
        free_axis: int | None = None,
        why: np.ndarray | None = None,
    ) -> Bounded:
        """Numbers known to lie within `budget` of the exact ones, at no kink."""
        exact = np.asarray(exact)
        return cls(exact, np.asarray(budget), exact, exact, dtype, free_axis, why)

    def settled(self, got: np.ndarray) -> tuple[np.ndarray, Bounded]:
        """Both sides less their mean along `free_axis`, the constant that is left open."""
        if self.free_axis is None:
            return got, self
        axis = self.free_axis

        def mean(numbers: np.ndarray) -> Any:
            return numbers.mean(axis, keepdims=True) if numbers.shape[axis] else 0

        with np.errstate(all="ignore"):
            budget = self.budget + mean(self.budget)
            exact, low, high = (
                mine - mean(other)
                for mine, other in (
                    (self.exact, self.exact),
                    (self.low, self.high),
                    (self.high, self.low),
                )
            )
            known = np.isfinite(exact) & np.isfinite(low) & np.isfinite(high)
            budget = np.where(known & np.isfinite(budget), budget, np.inf)
            why = self.why
            if why is not None:
                # One number that nothing is asked of leaves the constant of its row unknown.
                why = np.broadcast_to(why.max(axis, keepdims=True, initial=0), why.shape)
            return got - mean(got), Bounded(exact, budget, low, high, self.dtype, None, why)

    def error(self, got: np.ndarray) -> np.ndarray:
        """Observed error ÷ budget, element by element: at most 1 conforms, inf is plainly wrong."""
        if self.free_axis is not None:
            got, known = self.settled(got)
            return known.error(got)
        largest = precision(self.dtype).largest
        with np.errstate(all="ignore"):
            beyond = np.maximum(self.low - got, got - self.high)
            ratio = np.where(beyond <= 0, 0, beyond / self.budget)
            if (np.abs(self.exact) + self.budget + np.abs(got) < largest).all():
                return np.asarray(ratio, dtype=np.float64)  # numbers throughout
            # Where rounding may overflow, infinity is as right as a number.
            above = (got >= largest) & (self.high + self.budget >= largest)
            below = (got <= -largest) & (self.low - self.budget <= -largest)
            ratio = np.where((above | below) & np.isfinite(self.exact), 0, ratio)
            ratio = np.where(np.isinf(self.exact), np.where(got == self.exact, 0, np.inf), ratio)
            ratio = np.where(np.isnan(self.exact), np.where(np.isnan(got), 0, np.inf), ratio)
            ratio = np.where(np.isnan(got) & ~np.isnan(self.exact), np.inf, ratio)
            ratio = np.where(self.budget == np.inf, 0, ratio)
            return np.asarray(np.where(np.isnan(ratio), np.inf, ratio), dtype=np.float64)

    def rounded_to(self, dtype: str) -> Bounded:
        """The same numbers, known after one more rounding to a narrower dtype."""
        narrow = precision(dtype)
        with np.errstate(all="ignore"):
            size = np.maximum(np.abs(self.low), np.abs(self.high)) + self.budget
            budget = self.budget + narrow.unit * size + narrow.smallest
        return replace(self, budget=np.where(np.isnan(budget), np.inf, budget), dtype=dtype)

    def asked(self) -> Counter[str]:
        """How many numbers are asked for, under `ASKED`, and how many are not, by reason.

        Numbers at a kink count apart though an interval is asked for, and so do those of which
        rounding explains a tenth or more.
        """
        size, found = self.exact.size, Counter[str]()
        with np.errstate(all="ignore"):
            near = np.abs(self.exact) * INFORMATIVE
            known = (self.budget < near) | ((self.exact == 0) & (self.budget < np.inf))
            plain = known if self.low is self.high else known & (self.low == self.high)
            found[ASKED] = int(plain.sum())
            if found[ASKED] == size:
                return +found
            open_ = self.budget == np.inf
            left = ~(plain | open_)
            kinks = left & (self.low != self.high)
            left &= ~kinks
            tiny = left & (near <= SLACK * precision(self.dtype).negligible)
            found[Excuse.KINK] = int(kinks.sum())
            found[Excuse.SUBNORMAL] = int(tiny.sum())
            found[Excuse.TOO_UNCERTAIN] = int((left & ~tiny).sum())
        if open_.any():
            why = np.zeros(open_.shape, np.int8) if self.why is None else self.why
            for place, count in enumerate(np.bincount(why[open_])):
                found[REASONS[place]] += int(count)
        return +found

    @property
    def informative(self) -> bool:
        """Whether some number is known well enough to tell a right result from 0 or a wrong one."""
        with np.errstate(all="ignore"):
            known = np.isfinite(self.exact) & (self.budget < INFORMATIVE * np.abs(self.exact))
        return bool(known.any())
