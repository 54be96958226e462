"""The right answer of a case: values, gradients and their budgets, for any reduction.

`lossspec.oracle.solver` fills an `Expected` with the unreduced losses, their derivatives and the
error budget of each. This module derives the rest from them: the reduced value, and the gradient
for a reduction and a cotangent. The budget of a sum grows with its roundings, and that of a mean
with the error of its divisor.
"""

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
from lossspec.spec.mean import Mean
from lossspec.thresholds import SLACK


@dataclass(frozen=True)
class Whole:
    """Facts about a whole call that each part needs when the call is solved in parts.

    Attributes:
        case: The whole call.
        counts: As in `Expected`, for every element of the whole call.
        counted: As in `Expected`, for every element of the whole call.
        precision: The properties of the case's dtype.
        parts: How many parts of the batch an implementation adds up, one after the other.
        mean: The declaration of the mean.
    """

    case: Case
    counts: np.ndarray
    counted: np.ndarray
    precision: Precision
    parts: int
    mean: Mean
    _divisors: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def divisor(self, reduction: str) -> tuple[Any, Any]:
        """Return the number that a reduction divides by, and the error bound of that number."""
        if reduction not in self._divisors:
            self._divisors[reduction] = self._divisor(reduction)
        return self._divisors[reduction]

    def _divisor(self, reduction: str) -> tuple[Any, Any]:
        if reduction == "batchmean":
            shape = self.case.tensors[next(iter(self.case.tensors))].shape
            return Extended(shape[0] if shape else 1), Extended(0)
        if reduction != "mean":
            return Extended(1), Extended(0)
        divisor, error = self.counts.sum(), Extended(0)
        if not np.all((self.counts == 1) | ~self.counted):  # a whole number is exact
            terms = roundings(self.counts.size, self.precision, self.parts) + 1
            error = self.precision.unit * terms * np.abs(self.counts).sum()
        floor = self.mean.floor
        if floor is None or divisor >= floor:
            return divisor, error
        held = self._held(floor)
        return Extended(floor), np.inf if held == 0 else error + abs(held - floor)

    def _held(self, number: float) -> Any:
        """Return a number as the dtype holds it."""
        return as_extended(np.asarray(number).astype(self.precision.numpy))

    @property
    def of_nothing(self) -> float | None:
        """The mean of no elements; None if it is open, as with a floor that the dtype flushes."""
        floor = self.mean.floor
        return None if floor and self._held(floor) == 0 else self.mean.of_empty

    def undivided(self, reduction: str) -> float | None:
        """Return the declared value of a mean whose divisor is 0; None if it is open."""
        if reduction != "mean" or self.divisor(reduction)[0] != 0:
            return None
        return self.mean.undivided(bool(self.counted.any()))

    def too_small(self, array: np.ndarray) -> np.ndarray:
        """Return which numbers of a tensor are too near to 0 for their gradient to be judged.

        Vectorised kernels compute the logarithm of a subnormal number with an error of a few per
        cent. A mean divides the cotangent, so that gradients become subnormal earlier.

        Args:
            array: A tensor of the case, in its own dtype.

        Returns:
            A mask of the shape of `array`.
        """
        mean = "mean" in self.case.reduction and self.precision.name != "float16"
        smallest = self.precision.negligible * (self.counts.size if mean else 1)
        size = np.abs(as_extended(array))
        return np.asarray((size != 0) & ~(size >= smallest))


@dataclass(frozen=True)
class GradientTerms:
    """The sums that make the gradient of one tensor, before the rounding of a sum is budgeted.

    Each element of the loss adds a term to the gradient of the numbers that it depends on. All
    arrays have the shape of the tensor.

    Attributes:
        exact: As in `Bounded`.
        low: As in `Bounded`.
        high: As in `Bounded`.
        budget: The sum of the error bounds of the terms, without the factor `SLACK`.
        size: The sum of the absolute values of the terms.
        terms: How many terms there are for each number.
    """

    exact: Any
    low: Any
    high: Any
    budget: Any
    size: Any
    terms: float

    def plus(self, other: GradientTerms) -> GradientTerms:
        """Return the sums over the terms of both."""
        return GradientTerms(
            *(getattr(self, one.name) + getattr(other, one.name) for one in fields(self))
        )


@dataclass(frozen=True)
class Expected:
    """The right answer of a case: the unreduced loss and its derivatives, element by element."""

    case: Case
    #: The unreduced losses. This array and those up to `counted` have its shape.
    losses: np.ndarray
    #: The error bound of each loss, without the factor `SLACK`.
    budget: np.ndarray
    #: The summand of each element in the divisor of the mean, and the factor of its loss there.
    counts: np.ndarray
    shares: np.ndarray
    #: False for an ignored element.
    counted: np.ndarray
    #: For each differentiable tensor, the derivative of each loss by the numbers that it depends
    #: on, and the error bound of that derivative, in the axes of `define`. Axis 0 of the derivative
    #: holds the exact one, then one for each choice of one-sided derivatives at kinks.
    derivatives: Mapping[str, tuple[np.ndarray, np.ndarray]]
    placed: Mapping[str, Placed]
    precision: Precision
    #: For each tensor whose numbers sum to 1 along an axis, that axis.
    simplex: Mapping[str, int]
    #: The whole call, of which this may be a part.
    whole: Whole
    #: Whether a comparison met a nan; an implementation may lose the nan there.
    compared: bool = False
    #: True if the definition declares the loss to be nan there, with `maths.by_convention`.
    stated: np.ndarray = field(default_factory=lambda: np.zeros((), bool))
    #: The reason of each infinite budget, as in `Bounded.why`: for each loss, each derivative.
    why: np.ndarray = field(default_factory=lambda: np.zeros((), np.int8))
    why_derivative: Mapping[str, np.ndarray] = field(default_factory=dict)
    _known: dict[Any, Any] = field(default_factory=dict)

    @property
    def parts(self) -> int:
        """How many parts of the batch an implementation adds up, one after the other."""
        return self.whole.parts

    @property
    def plain(self) -> bool:
        """Whether every element has weight 1 in the mean and in its divisor."""
        return bool((self.counts == 1).all() and (self.shares == 1).all())

    def value(self, reduction: str) -> Bounded:
        """Return the result under one of the reductions of the loss, with its budget."""
        return self._once(("value", reduction), lambda: self._value(reduction))

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return `make()`, computed once: many clauses ask for the same answer."""
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
        declared = self.whole.undivided(reduction)
        if declared is not None:
            exact = Extended(declared)
            # Clause `nothing-left` judges a mean of no elements. An element may overflow before it
            # is multiplied by its weight of 0.
            finite = bool(np.isfinite(self.budget).all())
            budget = Extended(0 if self.whole.counted.any() and finite else np.inf)
        return self._bounded(exact, budget, why=_why_reduced(self, exact, budget, not usable))

    def divided(self, reduction: str) -> tuple[Any, Any, Any, Any]:
        """Return the sum of the losses, its error bound, the divisor and its error bound."""
        return self._once(("divided", reduction), lambda: self._divided(reduction))

    def _divided(self, reduction: str) -> tuple[Any, Any, Any, Any]:
        unit = self.precision.unit
        terms = roundings(self.losses.size, self.precision, self.parts) + 1
        with np.errstate(all="ignore"):
            shares = self.shares if reduction == "mean" else np.ones_like(self.shares)
            losses = self.losses * shares
            exact, size = losses.sum(), np.abs(losses).sum()
            budget = (self.budget * np.abs(shares)).sum()
            if np.isinf(exact):
                # An infinite loss makes the sum exactly infinite, unless another loss is open.
                size = np.abs(np.where(np.isinf(losses), 0, losses)).sum()
                budget = np.where(np.isfinite(budget), 0, np.inf)
            else:
                budget = budget + unit * terms * size
            if not size < self.precision.largest_sum:
                budget = np.full_like(budget, np.inf)  # the plain sum overflows too
        return exact, budget, *self.divisor(reduction)

    def divisor(self, reduction: str) -> tuple[Any, Any]:
        """Return the divisor of a reduction of the whole call, and its error bound."""
        return self.whole.divisor(reduction)

    def scale(self, reduction: str, cotangent: np.ndarray) -> np.ndarray | None:
        """Return the factor of each element's derivative in a gradient.

        Args:
            reduction: One of the reductions of the loss.
            cotangent: The cotangent of the result, of its shape.

        Returns:
            Factors that broadcast to the unreduced loss; None if the divisor is 0.
        """
        scale = as_extended(np.asarray(cotangent))
        if reduction == "none":
            return scale
        divisor, _ = self.divisor(reduction)
        if divisor == 0:
            return None
        shares = self.shares if reduction == "mean" else np.ones_like(self.shares)
        return np.asarray(scale / divisor * shares)

    def gradient(self, name: str, reduction: str, cotangent: np.ndarray) -> Bounded | None:
        """Return the gradient of one tensor.

        Args:
            name: The tensor.
            reduction: One of the reductions of the loss.
            cotangent: The cotangent of the result, of its shape.

        Returns:
            The gradient with its budget; None if the value is nan, because the mean divides by 0.
        """
        key = "gradient", name, reduction, cotangent.dtype, cotangent.tobytes()
        return self._once(key, lambda: self._gradient(name, reduction, cotangent))

    def _gradient(self, name: str, reduction: str, cotangent: np.ndarray) -> Bounded | None:
        terms = self.terms(name, reduction, cotangent)
        return None if terms is None else self.summed(name, terms)

    def terms(self, name: str, reduction: str, cotangent: np.ndarray) -> GradientTerms | None:
        """Return the sums that make the gradient of one tensor; arguments as in `gradient`."""
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
            # One-sided derivatives are rounded too, and each element may take another side.
            ends = SLACK * unit * (2 + relative) * np.abs(terms) * (terms != terms[0])
            exact, low, high = (
                placed.leave(term, shape)
                for term in (terms[0], (terms - ends).min(0), (terms + ends).max(0))
            )
            size = np.abs(scale)
            budget = size * (error + unit * np.abs(derivative[0]) * (2 + relative))
            budget = budget + smallest * (np.abs(derivative[0]) + size)
            # A product may become so small that kernels flush it to 0.
            budget = budget + self.precision.negligible
            budget = np.where((size == 0) & np.isfinite(error), smallest, budget)
            summed = derivative[0].size / max(int(np.prod(shape)), 1)
            budget, total = (placed.leave(part, shape) for part in (budget, np.abs(terms[0])))
        return GradientTerms(exact, low, high, budget, total, summed)

    def summed(self, name: str, terms: GradientTerms) -> Bounded:
        """Return the gradient of one tensor from its sums, with a budget for rounding them."""
        budget = terms.budget
        if terms.terms > 1:
            serial = roundings(terms.terms, self.precision, self.parts)
            with np.errstate(all="ignore"):
                budget = budget + self.precision.unit * serial * terms.size
        # Probabilities that sum to 1 leave a common constant of their gradient undefined.
        axis = self.simplex.get(name)
        why = _why_gradient(self, name, terms.exact.shape, budget)
        return self._bounded(terms.exact, SLACK * budget, terms.low, terms.high, axis, why)

    def gradients(self) -> dict[str, Bounded]:
        """Return the gradient of each tensor in `requires_grad`, with ignored rows open.

        Tensors are left out if their gradient is undefined (a mean of no elements).
        """
        reduction = self.case.reduction
        upstream = self.case.upstream(reduction)
        found = {name: self.gradient(name, reduction, upstream) for name in self.case.requires_grad}
        return {name: self.counted_only(name, it) for name, it in found.items() if it is not None}

    def ignored(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return which elements of a tensor matter to ignored elements of the loss only.

        Args:
            name: The tensor.
            shape: Its shape in the call.
        """
        placed = self.placed[name]
        view = self.counted.shape + placed.view[len(placed.view) - placed.core :]
        mask = self.counted.reshape(self.counted.shape + (1,) * placed.core)
        return placed.leave(np.broadcast_to(mask, view).astype(int), shape) == 0

    def reached(self, name: str, elements: np.ndarray) -> np.ndarray:
        """Return which elements of the loss depend on the given elements of a tensor.

        Args:
            name: The tensor.
            elements: A mask of the tensor's shape.
        """
        view = self.placed[name].enter(elements, self.counted.shape)
        return np.asarray(view.any(axis=tuple(range(self.counted.ndim, view.ndim))))

    def counted_only(self, name: str, bounded: Bounded) -> Bounded:
        """Return the gradient `bounded` of a tensor with ignored rows open: not judged."""
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
    """Return why a reduced value is open: the reason of one of its losses, or of the sum itself."""
    if np.isfinite(budget):
        return None
    why = np.asarray(np.max(expected.why, initial=0))
    overflows = not why and not divides_by_nearly_0 and not np.isnan(exact)
    return why_open(Excuse.OVERFLOW, np.asarray(overflows)) if overflows else why


def _why_gradient(
    expected: Expected, name: str, shape: tuple[int, ...], budget: np.ndarray
) -> np.ndarray | None:
    """Return why each number of a gradient is open: the last reason among its terms."""
    if np.isfinite(budget).all():
        return None
    terms, why = expected.why_derivative[name], np.zeros(shape, np.int8)
    for place in range(1, len(REASONS)):
        found = terms == place
        if found.any():
            why[expected.placed[name].leave(found.astype(int), shape) > 0] = place
    return why
