"""The right answer of a case: values, derivatives and their budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lossspec.cases.case import Case
from lossspec.dtypes import Extended, Precision, as_extended
from lossspec.excuse import Excuse
from lossspec.oracle.bounds import REASONS, Bounded, roundings, why_open
from lossspec.oracle.placement import Placed
from lossspec.thresholds import SLACK


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
    #: Whether a nan was compared with a number, which may lose it.
    compared: bool = False
    #: Where the definition says itself that the loss is nan.
    stated: np.ndarray = field(default_factory=lambda: np.zeros((), bool))
    #: How many parts of the batch are added up one after the other.
    parts: int = 1
    #: Why a budget is infinite, as in `Bounded`: of each loss, and of each derivative.
    why: np.ndarray = field(default_factory=lambda: np.zeros((), np.int8))
    why_derivative: Mapping[str, np.ndarray] = field(default_factory=dict)
    _known: dict[Any, Any] = field(default_factory=dict)

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
        divisor: Any = Extended(1)
        error: Any = Extended(0)
        if reduction == "mean":
            divisor = self.counts.sum()
            error = unit * terms * np.abs(self.counts).sum()
            if np.all((self.counts == 1) | ~self.counted):
                error = Extended(0)  # a whole number
        elif reduction == "batchmean":
            shape = self.case.tensors[next(iter(self.case.tensors))].shape
            divisor = Extended(shape[0] if shape else 1)
        return exact, budget, divisor, error

    def scale(self, reduction: str, cotangent: np.ndarray) -> np.ndarray | None:
        """What each element's derivative counts for in a gradient; None for a mean of nothing."""
        scale = as_extended(np.asarray(cotangent))
        if reduction == "none":
            return scale
        divisor = self.divided(reduction)[2]
        if divisor == 0:
            return None
        shares = self.shares if reduction == "mean" else np.ones_like(self.shares)
        return np.asarray(scale / divisor * shares)

    def gradient(self, name: str, reduction: str, cotangent: np.ndarray) -> Bounded | None:
        """The gradient of one tensor for a cotangent of the result; None where the value is nan."""
        key = "gradient", name, reduction, cotangent.dtype, cotangent.tobytes()
        return self._once(key, lambda: self._gradient(name, reduction, cotangent))

    def _gradient(self, name: str, reduction: str, cotangent: np.ndarray) -> Bounded | None:
        derivative, error = self.derivatives[name]
        unit, smallest = self.precision.unit, self.precision.smallest
        scale = self.scale(reduction, cotangent)
        if scale is None:
            return None
        relative: Any = 0.0
        if reduction != "none":
            _, _, divisor, divisor_error = self.divided(reduction)
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
            spread = derivative[0].size / max(int(np.prod(shape)), 1)
            budget = placed.leave(budget, shape)
            if spread > 1:
                serial = roundings(spread, self.parts)
                budget = budget + unit * serial * placed.leave(np.abs(terms[0]), shape)
        # How a loss changes when shares no longer sum to 1 is left open: it need not be defined.
        why = _why_gradient(self, name, shape, budget)
        return self._bounded(exact, SLACK * budget, low, high, self.simplex.get(name), why)

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
