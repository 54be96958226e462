"""Numbers with error budgets: how far a correct result may be from the exact one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lossspec.dtypes import Precision, precision
from lossspec.excuse import Excuse
from lossspec.thresholds import INFORMATIVE, SERIAL_TERMS, SLACK

#: The key that counts the judged numbers; the other keys are the reasons of the open ones.
ASKED = "asked"
#: Why a number is open, which means that it is not judged and its budget is infinite. The first
#: reason is the fallback. A number that is a sum takes the last reason among its terms.
REASONS = (
    Excuse.UNDEFINED,
    Excuse.TOO_UNCERTAIN,
    Excuse.SUBNORMAL,
    Excuse.KINK,
    Excuse.OVERFLOW,
    Excuse.IGNORED,
)


def why_open(excuse: Excuse, numbers: np.ndarray) -> np.ndarray:
    """Return the index in `REASONS` of an excuse where `numbers` holds, and 0 elsewhere.

    Args:
        excuse: One of `REASONS`.
        numbers: A mask of any shape.

    Returns:
        An array of int8, of the shape of `numbers`.
    """
    return np.where(numbers, np.int8(REASONS.index(excuse)), np.int8(0))


def roundings(terms: float, dtype: Precision, parts: int = 1) -> float:
    """Return how many roundings a sum accumulates.

    A pairwise sum rounds log₂(terms) times. In float32 and float64 a sum may also add up to
    `SERIAL_TERMS` numbers one after the other, as norms and matrix products of torch do; in 16 bits
    they add in float32. A sum of parts rounds once more for each part after the first. Roundings of
    numbers that are added one after the other are at most u·Σ|term| each, whatever their order, so
    `SLACK` does not multiply them.

    Args:
        terms: How many numbers are added.
        dtype: The dtype in which they are added.
        parts: How many parts the parameters of the call ask for.

    Returns:
        A factor. The error of the sum is at most this factor times `SLACK`, the unit roundoff u and
        Σ|term|.
    """
    wide = dtype.unit <= precision("float32").unit
    serial = min(terms, SERIAL_TERMS) if wide else 0
    further = max(min(parts, terms) - 1, 0)
    return max(float(np.log2(max(terms, 1))), serial / SLACK) + further / SLACK


@dataclass(frozen=True)
class Bounded:
    """Exact numbers and the interval in which a correct result lies.

    The interval is `[low - budget, high + budget]`. A number whose budget is infinite is open: it
    is not judged, for example because the plain formula overflows in the dtype too.

    Attributes:
        exact: The exact numbers, in extended precision.
        budget: The largest error granted to each number, in the units of `exact`.
        low: The lowest one-sided derivative at a kink; equal to `exact` elsewhere.
        high: The highest one-sided derivative at a kink; equal to `exact` elsewhere.
        dtype: The dtype in which a result is judged, such as `float32`.
        free_axis: The axis along which a common constant may be added; None if there is none.
        why: For each number with an infinite budget, the index of its reason in `REASONS`; None if
            every budget is finite.
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
        """Return numbers without a kink: a correct result lies within `budget` of `exact`.

        Args:
            exact: The exact numbers.
            budget: The largest error granted, of the shape of `exact`.
            dtype: The dtype in which a result is judged.
            free_axis: As in the class.
            why: As in the class.
        """
        exact = np.asarray(exact)
        return cls(exact, np.asarray(budget), exact, exact, dtype, free_axis, why)

    def taken(self, rows: np.ndarray, axis: int) -> Bounded:
        """Return the numbers of some rows, as the rows of a call are repeated.

        Args:
            rows: The index of the row in place of each one.
            axis: The axis of the rows.
        """
        exact, budget, low, high = (
            part.take(rows, axis) for part in (self.exact, self.budget, self.low, self.high)
        )
        return Bounded(exact, budget, low, high, self.dtype, self.free_axis)

    def settled(self, got: np.ndarray) -> tuple[np.ndarray, Bounded]:
        """Remove the free constant: subtract the mean along `free_axis` on both sides.

        Args:
            got: The result to judge, of the shape of `exact`.

        Returns:
            The result and the exact numbers, both with a mean of 0 along `free_axis`.
        """
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
                # One open number leaves the mean of its row unknown, so the whole row is open.
                why = np.broadcast_to(why.max(axis, keepdims=True, initial=0), why.shape)
            return got - mean(got), Bounded(exact, budget, low, high, self.dtype, None, why)

    def error(self, got: np.ndarray) -> np.ndarray:
        """Return observed error ÷ budget for each element.

        Args:
            got: The result to judge, of the shape of `exact`.

        Returns:
            Ratios in float64. A ratio of at most 1 conforms; `inf` is wrong by any budget.
        """
        if self.free_axis is not None:
            got, known = self.settled(got)
            return known.error(got)
        largest = precision(self.dtype).largest
        with np.errstate(all="ignore"):
            beyond = np.maximum(self.low - got, got - self.high)
            ratio = np.where(beyond <= 0, 0, beyond / self.budget)
            if (np.abs(self.exact) + self.budget + np.abs(got) < largest).all():
                return np.asarray(ratio, dtype=np.float64)  # no infinity and no nan
            # Near the largest number of the dtype rounding may overflow, so accept infinity.
            above = (got >= largest) & (self.high + self.budget >= largest)
            below = (got <= -largest) & (self.low - self.budget <= -largest)
            ratio = np.where((above | below) & np.isfinite(self.exact), 0, ratio)
            ratio = np.where(np.isinf(self.exact), np.where(got == self.exact, 0, np.inf), ratio)
            ratio = np.where(np.isnan(self.exact), np.where(np.isnan(got), 0, np.inf), ratio)
            ratio = np.where(np.isnan(got) & ~np.isnan(self.exact), np.inf, ratio)
            ratio = np.where(self.budget == np.inf, 0, ratio)
            return np.asarray(np.where(np.isnan(ratio), np.inf, ratio), dtype=np.float64)

    def rounded_to(self, dtype: str) -> Bounded:
        """Return the same numbers with a budget for one more rounding, to a narrower dtype."""
        narrow = precision(dtype)
        with np.errstate(all="ignore"):
            size = np.maximum(np.abs(self.low), np.abs(self.high)) + self.budget
            budget = self.budget + narrow.unit * size + narrow.smallest
        return replace(self, budget=np.where(np.isnan(budget), np.inf, budget), dtype=dtype)

    def asked(self) -> Counter[str]:
        """Count the judged numbers under `ASKED`, and the others by reason.

        A number at a kink counts as `Excuse.KINK`, although its interval is judged. A number counts
        as `Excuse.TOO_UNCERTAIN` if its budget is a tenth of its size or more (`INFORMATIVE`).
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
        """Whether some number's budget is small enough to tell a correct result from 0."""
        with np.errstate(all="ignore"):
            known = np.isfinite(self.exact) & (self.budget < INFORMATIVE * np.abs(self.exact))
        return bool(known.any())
