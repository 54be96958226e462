"""The right answer of a case: values, derivatives and their budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from lossspec.cases.case import Case
from lossspec.dtypes import Extended, Precision, as_extended
from lossspec.excuse import Excuse
from lossspec.oracle.bounds import REASONS, Bounded, roundings, why_open
from lossspec.oracle.placement import Placed
from lossspec.thresholds import SLACK


@dataclass(frozen=True)
class Whole:
    """What each part of a call needs to know of all of it, where it is solved in parts.

    counts, counted : as in `Expected`, of every element. parts : how many parts of the batch an
    implementation adds up, one after the other.
    """

    case: Case
    counts: np.ndarray
    counted: np.ndarray
    precision: Precision
    parts: int
    _divisors: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def divisor(self, reduction: str) -> tuple[Any, Any]:
        """Return what a reduction divides by, and its error."""
        if reduction not in self._divisors:
            self._divisors[reduction] = self._divisor(reduction)
        return self._divisors[reduction]

    def _divisor(self, reduction: str) -> tuple[Any, Any]:
        if reduction == "batchmean":
            shape = self.case.tensors[next(iter(self.case.tensors))].shape
            return Extended(shape[0] if shape else 1), Extended(0)
        if reduction != "mean":
            return Extended(1), Extended(0)
        if np.all((self.counts == 1) | ~self.counted):
            return self.counts.sum(), Extended(0)  # a whole number
        terms = roundings(self.counts.size, self.parts) + 1
        return self.counts.sum(), self.precision.unit * terms * np.abs(self.counts).sum()

    def too_small(self, array: np.ndarray) -> np.ndarray:
        """Which numbers of a tensor are so near to 0 that nothing is asked of their gradient.

        Logarithms of subnormal numbers are off by a few per cent where they come in vectors, and a
        mean divides what is on its way back.
        """
        mean = "mean" in self.case.reduction and self.precision.name != "float16"
        smallest = self.precision.negligible * (self.counts.size if mean else 1)
        size = np.abs(as_extended(array))
        return np.asarray((size != 0) & ~(size >= smallest))


@dataclass(frozen=True)
class GradientTerms:
    """The gradient of a tensor by some elements of the loss, before their sum is rounded.

    exact, low, high, budget : as in `Bounded`, without `SLACK`. size : what the terms add up to
    without their signs. terms : how many there are for each number.
    """

    exact: Any
    low: Any
    high: Any
    budget: Any
    size: Any
    terms: float

    def plus(self, other: GradientTerms) -> GradientTerms:
        """Return the terms of both."""
        return GradientTerms(
            *(getattr(self, one.name) + getattr(other, one.name) for one in fields(self))
        )


@dataclass(frozen=True)
class Expected:
    """What a case must give: the unreduced loss and its derivatives, element by element."""

    case: Case
    #: In the shape of the unreduced result, as all up to `counted` are.
    losses: np.ndarray
    budget: np.ndarray
    #: What each element counts for in the divisor of the mean, and what it is multiplied by there.
    counts: np.ndarray
    shares: np.ndarray
    #: Whether it counts at all, or is ignored.
    counted: np.ndarray
    #: For each differentiable tensor, the derivative of each loss element by the elements that it
    #: depends on, exact and on each of the ensemble's sides (they differ at a kink); its budget.
    derivatives: Mapping[str, tuple[np.ndarray, np.ndarray]]
    placed: Mapping[str, Placed]
    precision: Precision
    #: For tensors whose numbers sum to 1 along an axis, that axis.
    simplex: Mapping[str, int]
    #: The call that it is the answer of, or of a part of.
    whole: Whole
    #: Whether a nan was compared with a number, which may lose it.
    compared: bool = False
    #: Where the definition says itself that the loss is nan.
    stated: np.ndarray = field(default_factory=lambda: np.zeros((), bool))
    #: Why a budget is infinite, as in `Bounded`: of each loss, and of each derivative.
    why: np.ndarray = field(default_factory=lambda: np.zeros((), np.int8))
    why_derivative: Mapping[str, np.ndarray] = field(default_factory=dict)
    _known: dict[Any, Any] = field(default_factory=dict)

    @property
    def parts(self) -> int:
        """How many parts of the batch are added up one after the other."""
        return self.whole.parts

    @property
    def plain(self) -> bool:
        """Whether each element counts once in the mean."""
        return bool((self.counts == 1).all() and (self.shares == 1).all())

    def value(self, reduction: str) -> Bounded:
        """The result under one of the loss's reductions."""
        return self._once(("value", reduction), lambda: self._value(reduction))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What many clauses ask for, computed when the first one does."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def _value(self, reduction: str) -> Bounded:
        if reduction == "none":
            return self._bounded(self.losses, SLACK * self.budget, why=self.why)
        exact, budget, divisor, divisor_error = self.divided(reduction)
        with np.errstate(all="ignore"):
            usable = bool(divisor_error < abs(divisor) < np.inf)
            infinite = np.isinf(exact) and budget == 0 and usable
            exact, budget = exact / divisor, budget / abs(divisor)
            budget = budget + abs(exact) * (divisor_error / abs(divisor) + self.precision.unit)
            budget = np.where(infinite, 0, SLACK * (budget + self.precision.negligible))
        return self._bounded(exact, budget, why=_why_reduced(self, exact, budget, not usable))

    def divided(self, reduction: str) -> tuple[Any, Any, Any, Any]:
        """The sum of the losses and its budget, then what a reduction divides by and its error."""
        return self._once(("divided", reduction), lambda: self._divided(reduction))

    def _divided(self, reduction: str) -> tuple[Any, Any, Any, Any]:
        unit = self.precision.unit
        terms = roundings(self.losses.size, self.parts) + 1
        with np.errstate(all="ignore"):
            shares = self.shares if reduction == "mean" else np.ones_like(self.shares)
            losses = self.losses * shares
            exact, size = losses.sum(), np.abs(losses).sum()
            budget = (self.budget * np.abs(shares)).sum()
            if np.isinf(exact):
                # Losses that are infinite by definition make the sum so, if no other is unknown.
                size = np.abs(np.where(np.isinf(losses), 0, losses)).sum()
                budget = np.where(np.isfinite(budget), 0, np.inf)
            else:
                budget = budget + unit * terms * size
            if not size < self.precision.largest_sum:
                budget = np.full_like(budget, np.inf)  # the textbook's sum overflows as well
        return exact, budget, *self.divisor(reduction)

    def divisor(self, reduction: str) -> tuple[Any, Any]:
        """What a reduction of the whole call divides by, and its error."""
        return self.whole.divisor(reduction)

    def scale(self, reduction: str, cotangent: np.ndarray) -> np.ndarray | None:
        """What each element's derivative counts for in a gradient; None for a mean of nothing."""
        scale = as_extended(np.asarray(cotangent))
        if reduction == "none":
            return scale
        divisor, _ = self.divisor(reduction)
        if divisor == 0:
            return None
        shares = self.shares if reduction == "mean" else np.ones_like(self.shares)
        return np.asarray(scale / divisor * shares)

    def gradient(self, name: str, reduction: str, cotangent: np.ndarray) -> Bounded | None:
        """The gradient of one tensor for a cotangent of the result; None where the value is nan."""
        key = "gradient", name, reduction, cotangent.dtype, cotangent.tobytes()
        return self._once(key, lambda: self._gradient(name, reduction, cotangent))

    def _gradient(self, name: str, reduction: str, cotangent: np.ndarray) -> Bounded | None:
        terms = self.terms(name, reduction, cotangent)
        return None if terms is None else self.summed(name, terms)

    def terms(self, name: str, reduction: str, cotangent: np.ndarray) -> GradientTerms | None:
        """The gradient of one tensor before it is rounded; None where the value is nan."""
        derivative, error = self.derivatives[name]
        unit, smallest = self.precision.unit, self.precision.smallest
        scale = self.scale(reduction, cotangent)
        if scale is None:
            return None
        relative: Any = 0.0
        if reduction != "none":
            divisor, divisor_error = self.divisor(reduction)
            relative = divisor_error / abs(divisor)
        placed = self.placed[name]
        shape = self.case.tensors[name].shape
        scale = scale.reshape(scale.shape + (1,) * placed.core)
        with np.errstate(all="ignore"):
            terms = derivative * scale
            # Slopes at a kink are rounded too, and each element may have its own.
            ends = SLACK * unit * (2 + relative) * np.abs(terms) * (terms != terms[0])
            exact, low, high = (
                placed.leave(term, shape)
                for term in (terms[0], (terms - ends).min(0), (terms + ends).max(0))
            )
            size = np.abs(scale)
            budget = size * (error + unit * np.abs(derivative[0]) * (2 + relative))
            budget = budget + smallest * (np.abs(derivative[0]) + size)
            # What is scaled down may come to lie where kernels take it for 0.
            budget = budget + self.precision.negligible
            budget = np.where((size == 0) & np.isfinite(error), smallest, budget)
            summed = derivative[0].size / max(int(np.prod(shape)), 1)
            budget, total = (placed.leave(part, shape) for part in (budget, np.abs(terms[0])))
        return GradientTerms(exact, low, high, budget, total, summed)

    def summed(self, name: str, terms: GradientTerms) -> Bounded:
        """The gradient of one tensor that its terms add up to."""
        budget = terms.budget
        if terms.terms > 1:
            serial = roundings(terms.terms, self.parts)
            with np.errstate(all="ignore"):
                budget = budget + self.precision.unit * serial * terms.size
        # How a loss changes when shares no longer sum to 1 is left open: it need not be defined.
        axis = self.simplex.get(name)
        why = _why_gradient(self, name, terms.exact.shape, budget)
        return self._bounded(terms.exact, SLACK * budget, terms.low, terms.high, axis, why)

    def gradients(self) -> dict[str, Bounded]:
        """The gradients that the case asks for, where there are any; of ignored rows nothing."""
        reduction = self.case.reduction
        upstream = self.case.upstream(reduction)
        found = {name: self.gradient(name, reduction, upstream) for name in self.case.requires_grad}
        return {name: self.counted_only(name, it) for name, it in found.items() if it is not None}

    def ignored(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Which elements of a tensor belong to ignored rows only."""
        placed = self.placed[name]
        view = self.counted.shape + placed.view[len(placed.view) - placed.core :]
        mask = self.counted.reshape(self.counted.shape + (1,) * placed.core)
        return placed.leave(np.broadcast_to(mask, view).astype(int), shape) == 0

    def reached(self, name: str, elements: np.ndarray) -> np.ndarray:
        """Which elements of the loss are computed from the given ones of a tensor."""
        view = self.placed[name].enter(elements, self.counted.shape)
        return np.asarray(view.any(axis=tuple(range(self.counted.ndim, view.ndim))))

    def counted_only(self, name: str, bounded: Bounded) -> Bounded:
        """The same gradient with nothing asked of ignored rows."""
        if self.counted.all():
            return bounded
        ignored = self.ignored(name, bounded.exact.shape)
        why = np.zeros(ignored.shape, np.int8) if bounded.why is None else bounded.why
        return replace(
            bounded,
            budget=np.where(ignored, np.inf, bounded.budget),
            why=np.where(ignored, why_open(Excuse.IGNORED, ignored), why),
        )

    def _bounded(
        self,
        exact: Any,
        budget: Any,
        low: np.ndarray | None = None,
        high: np.ndarray | None = None,
        free_axis: int | None = None,
        why: np.ndarray | None = None,
    ) -> Bounded:
        exact = np.asarray(exact, Extended)
        budget = np.where(np.isnan(budget), np.inf, budget)
        return Bounded(
            exact,
            np.asarray(budget, Extended),
            exact if low is None else low,
            exact if high is None else high,
            self.precision.name,
            free_axis,
            why,
        )


def _why_reduced(
    expected: Expected, exact: Any, budget: Any, divides_by_nearly_0: bool
) -> np.ndarray | None:
    """Why nothing is asked of a reduced value: because of some loss, or of the sum itself."""
    if np.isfinite(budget):
        return None
    why = np.asarray(np.max(expected.why, initial=0))
    overflows = not why and not divides_by_nearly_0 and not np.isnan(exact)
    return why_open(Excuse.OVERFLOW, np.asarray(overflows)) if overflows else why


def _why_gradient(
    expected: Expected, name: str, shape: tuple[int, ...], budget: np.ndarray
) -> np.ndarray | None:
    """Why nothing is asked of a gradient: the last of the reasons of its terms."""
    if np.isfinite(budget).all():
        return None
    terms, why = expected.why_derivative[name], np.zeros(shape, np.int8)
    for place in range(1, len(REASONS)):
        found = terms == place
        if found.any():
            why[expected.placed[name].leave(found.astype(int), shape) > 0] = place
    return why
