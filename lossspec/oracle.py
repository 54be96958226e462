"""The right answer: value and gradient in extended precision, with their error budgets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from autograd import make_vjp

from lossspec.budget import SLACK, Bounded, Extended, Precision, as_extended, precision
from lossspec.cases import Case
from lossspec.maths import ROUNDING_MEMBERS, STEP, Definition, Ensemble, ensemble
from lossspec.spec import ClassIndex, Form, Loss, Shape

#: Up to this many core elements each gets a member of its own; beyond, they share by sign patterns.
OWN_MEMBERS = 12


@cache
def _arguments(define: Definition) -> tuple[str, ...]:
    return tuple(inspect.signature(define).parameters)


@dataclass(frozen=True)
class _Placed:
    """How a tensor of a call lies in the definition's view: loop axes first, core axes last."""

    order: tuple[int, ...]  # transposes the call's axes into loop order, then core order
    view: tuple[int, ...]  # its shape there, with 1 for every loop axis that it lacks
    core: int

    def enter(self, array: np.ndarray, loop: tuple[int, ...]) -> np.ndarray:
        moved = array.transpose(self.order).reshape(self.view)
        return np.broadcast_to(moved, loop + self.view[len(self.view) - self.core :])

    def leave(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Back to the call's axes; what was spread over the loop is summed."""
        spread = tuple(
            i for i in range(len(self.view) - self.core) if self.view[i] == 1 != array.shape[i]
        )
        summed = array.sum(axis=spread, keepdims=True) if spread else array
        permuted = tuple(shape[i] for i in self.order)
        return summed.reshape(permuted).transpose(np.argsort(self.order))


def _place(array: np.ndarray, axes: tuple[str, ...], contract: Shape) -> _Placed:
    loop = [axes.index(name) for name in contract.result if name in axes]
    ones = [i for i, name in enumerate(axes) if name == "1"]
    core = [i for i, name in enumerate(axes) if name not in (*contract.result, "1")]
    view = [array.shape[axes.index(name)] if name in axes else 1 for name in contract.result]
    view += [array.shape[i] for i in core]
    return _Placed(tuple(loop + core + ones), tuple(view), len(core))


def axes_of(loss: Loss, form: Form, contract: Shape, name: str, ndim: int) -> tuple[str, ...]:
    """The contract's names for the axes of one tensor of a call."""
    tensors = list(form.tensors)
    if name in tensors:
        return contract.inputs[tensors.index(name)]
    shape = loss.options[name].shape or ""
    if shape.startswith("("):
        return contract.axes(shape)
    like = contract.inputs[tensors.index(shape.rsplit(" ", 1)[-1])]
    return like[len(like) - ndim :]


@dataclass(frozen=True)
class Expected:
    """What a case must give: the unreduced loss and its derivatives, element by element.

    losses, budget : in the shape of the unreduced result. derivatives : for each differentiable
    tensor, the derivative of each loss element by the elements that it depends on, three times
    (exact, lowest, highest: they differ at a kink), with its budget. counts : what each element
    counts for in the mean, shares : what it is multiplied by there. counted : whether it counts at
    all, or is ignored.
    """

    case: Case
    losses: np.ndarray
    budget: np.ndarray
    counts: np.ndarray
    shares: np.ndarray
    counted: np.ndarray
    derivatives: Mapping[str, tuple[np.ndarray, np.ndarray]]
    placed: Mapping[str, _Placed]
    precision: Precision

    def value(self, reduction: str) -> Bounded:
        """The result under one of the loss's reductions."""
        if reduction == "none":
            return self._bounded(self.losses, SLACK * self.budget)
        exact, budget, divisor, divisor_error = self.divided(reduction)
        with np.errstate(all="ignore"):
            exact, budget = exact / divisor, budget / abs(divisor)
            budget = budget + abs(exact) * (divisor_error / abs(divisor) + self.precision.unit)
        return self._bounded(exact, SLACK * (budget + self.precision.smallest))

    def divided(self, reduction: str) -> tuple[Any, Any, Any, Any]:
        """The sum of the losses and its budget, then what a reduction divides by and its error."""
        unit = self.precision.unit
        terms = np.log2(max(self.losses.size, 1)) + 1
        with np.errstate(all="ignore"):
            shares = self.shares if reduction == "mean" else np.ones_like(self.shares)
            losses = self.losses * shares
            exact, size = losses.sum(), np.abs(losses).sum()
            budget = (self.budget * np.abs(shares)).sum() + unit * terms * size
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

    def gradient(self, name: str, reduction: str, cotangent: np.ndarray) -> Bounded | None:
        """The gradient of one tensor for a cotangent of the result; None where the value is nan."""
        derivative, error = self.derivatives[name]
        unit, smallest = self.precision.unit, self.precision.smallest
        scale = as_extended(np.asarray(cotangent))
        relative: Any = 0.0
        if reduction != "none":
            _, _, divisor, divisor_error = self.divided(reduction)
            if divisor == 0:
                return None
            scale = np.broadcast_to(scale / divisor, self.losses.shape)
            if reduction == "mean":
                scale = scale * self.shares
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
            budget = budget + smallest * (np.abs(derivative[0]) + size + 1)
            budget = np.where((size == 0) & np.isfinite(error), smallest, budget)
            spread = derivative[0].size / max(int(np.prod(shape)), 1)
            budget = placed.leave(budget, shape)
            if spread > 1:
                budget = budget + unit * np.log2(spread) * placed.leave(np.abs(terms[0]), shape)
        return self._bounded(exact, SLACK * budget, low, high)

    def ignored(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Which elements of a tensor belong to ignored rows only."""
        placed = self.placed[name]
        view = self.counted.shape + placed.view[len(placed.view) - placed.core :]
        mask = self.counted.reshape(self.counted.shape + (1,) * placed.core)
        return placed.leave(np.broadcast_to(mask, view).astype(int), shape) == 0

    def counted_only(self, name: str, bounded: Bounded) -> Bounded:
        """The same gradient with nothing asked of ignored rows."""
        if self.counted.all():
            return bounded
        ignored = self.ignored(name, bounded.exact.shape)
        return replace(bounded, budget=np.where(ignored, np.inf, bounded.budget))

    def _bounded(
        self,
        exact: Any,
        budget: Any,
        low: np.ndarray | None = None,
        high: np.ndarray | None = None,
    ) -> Bounded:
        exact = np.asarray(exact, Extended)
        budget = np.where(np.isnan(budget), np.inf, budget)
        return Bounded(
            exact,
            np.asarray(budget, Extended),
            exact if low is None else low,
            exact if high is None else high,
            self.precision.name,
        )


@dataclass
class Solved:
    """A case with its right answer, which is computed when first asked for."""

    loss: Loss
    case: Case

    @cached_property
    def expected(self) -> Expected:
        """The right answer, under any reduction and cotangent."""
        return solve(self.loss, self.case)


def solve(loss: Loss, case: Case) -> Expected:
    """Evaluate and differentiate a loss's definition for one case, in extended precision."""
    form, contract = loss.form(case.form), case.shape
    define = form.define or loss.define
    dtype = precision(case.dtype)
    roles = loss.roles(form)
    sizes = case.axis_sizes(loss)
    loop = tuple(sizes[axis] for axis in contract.result)

    exact: dict[str, np.ndarray] = {}  # real tensors, in the definition's view
    fixed: dict[str, np.ndarray] = {}  # indices and the like
    placed: dict[str, _Placed] = {}
    counted = np.ones(loop, bool)
    for name, array in case.tensors.items():
        role = roles[name]
        placed[name] = _place(array, axes_of(loss, form, contract, name, array.ndim), contract)
        view = placed[name].enter(array, loop)
        if not role.integer:
            exact[name] = view
            continue
        if isinstance(role, ClassIndex) and role.ignored_by is not None:
            counted = counted & (view != case.parameters.get(role.ignored_by))
            view = np.where(counted, view, np.zeros_like(view))
        fixed[name] = view.astype(np.int64)
    for name, view in exact.items():
        # An ignored element's numbers must not matter: put a harmless one in their place.
        mask = counted.reshape(counted.shape + (1,) * placed[name].core)
        if not counted.all():
            exact[name] = np.where(mask, view, np.zeros_like(view))

    moves = _moves(exact, placed)
    size = 2 + sum(map(len, moves.values())) + ROUNDING_MEMBERS + 2
    ndim = len(loop)

    def defaults(real: type) -> dict[str, Any]:
        absent: dict[str, Any] = {}
        for name, role in roles.items():
            if name not in case.tensors:
                shape = role.shape or ""
                own = contract.axes(shape) if shape.startswith("(") else ()
                core = tuple(sizes[axis] for axis in own if axis not in contract.result)
                absent[name] = np.full((1,) * (1 + ndim) + core, role.default, real)
        absent |= {
            name: view[None] if not _one_hot(roles[name]) else _certain(view[None], sizes, real)
            for name, view in fixed.items()
        }
        absent |= {
            name: real(value) if isinstance(value, float) else value
            for name, value in case.parameters.items()
        }
        return absent

    wanted = [name for name in exact if roles[name].differentiable]
    still = {
        name: _members(view, name, placed[name].core, moves, size, dtype)
        for name, view in exact.items()
    }
    rest = {**defaults(Extended), **{n: a for n, a in still.items() if n not in wanted}}
    members = Ensemble(size, dtype.unit, dtype.smallest, SLACK)

    def evaluate(*tensors: Any) -> Any:
        known = {**rest, **dict(zip(wanted, tensors, strict=True))}
        return define(**{name: known[name] for name in _arguments(define)})

    with np.errstate(all="ignore"), ensemble(members):
        back, losses = make_vjp(lambda t: evaluate(*t))(tuple(still[name] for name in wanted))
        losses = np.broadcast_to(np.asarray(losses, Extended), (size, *loop))
        derivatives = dict(zip(wanted, back(np.ones_like(losses)), strict=True))

        def each(part: Definition | None) -> np.ndarray:
            if part is None:
                return np.ones(loop, Extended)
            known = {**rest, **still}
            given = part(**{name: known[name] for name in _arguments(part)})
            return np.broadcast_to(np.asarray(given, Extended), (size, *loop))[0]

        counts, shares = each(form.divisor), each(form.share)

    with np.errstate(all="ignore"):
        budget = _spread(losses, members, dtype)
        textbook, slips = _textbook(
            define, exact, defaults(dtype.numpy), dtype, losses[:2], derivatives
        )
        budget = budget + dtype.unit * np.abs(losses[0]) + textbook + dtype.smallest
        slopes = {}
        for name, derivative in derivatives.items():
            error = _spread(derivative, members, dtype)
            three = derivative[[0, -2, -1]]
            # Where the loss or its derivative is infinite there is no gradient to ask for.
            finite = np.isfinite(losses[0]).reshape(loop + (1,) * placed[name].core)
            error = error + slips[name]
            error[~(np.isfinite(three[0]) & finite)] = np.inf
            mask = counted.reshape(counted.shape + (1,) * placed[name].core)
            slopes[name] = np.where(mask, three, 0), np.where(mask, error, 0)
    return Expected(
        case,
        np.where(counted, losses[0], 0),
        np.where(counted, budget, 0),
        np.where(counted, counts, 0),
        shares,
        counted,
        slopes,
        placed,
        dtype,
    )


def _one_hot(role: Any) -> bool:
    return isinstance(role, ClassIndex) and role.one_hot


def _certain(index: np.ndarray, sizes: Mapping[str, int], real: type) -> np.ndarray:
    return np.asarray(index[..., None] == np.arange(sizes["C"])).astype(real)


def _moves(
    exact: Mapping[str, np.ndarray], placed: Mapping[str, _Placed]
) -> dict[str, list[np.ndarray]]:
    """For each tensor, the patterns over its core elements by which it is moved, a member each."""
    moves = {}
    for name, view in exact.items():
        core = int(np.prod(view.shape[view.ndim - placed[name].core :]))
        if core <= OWN_MEMBERS:
            moves[name] = list(np.eye(core))
        else:
            # Columns of a Hadamard matrix: no two of any four neighbours move alike.
            i = np.arange(core)
            moves[name] = [
                np.where([bin(int(k) & j).count("1") % 2 for k in i % 8], -1.0, 1.0)
                for j in range(8)
            ]
    return moves


def _members(
    view: np.ndarray,
    name: str,
    axes: int,
    moves: Mapping[str, list[np.ndarray]],
    size: int,
    dtype: Precision,
) -> np.ndarray:
    """One tensor in every member of the ensemble; `axes` of its axes are core."""
    members = np.empty((size, *view.shape), Extended)
    members[:] = as_extended(view)
    with np.errstate(all="ignore"):
        inward = np.nextafter(view, np.zeros_like(view))
        members[1] = as_extended(np.where(np.isfinite(view), inward, view))
    first = 2
    for other, patterns in moves.items():
        if other == name:
            break
        first += len(patterns)
    core = view.shape[view.ndim - axes :]
    # A unit in the last place is relative, but never less than the smallest subnormal; 0 is exact.
    size = np.where(members[0] == 0, 0, np.maximum(np.abs(members[0]), dtype.smallest / dtype.unit))
    place = Extended(STEP) * np.where(np.isfinite(size), np.copysign(size, members[0]), 0)
    for i, pattern in enumerate(moves[name]):
        members[first + i] += place * pattern.reshape(core)
    return members


def _spread(results: np.ndarray, members: Ensemble, dtype: Precision) -> np.ndarray:
    """What moving the inputs and rounding inside the words does to a result, in roundings."""
    change = np.abs(results - results[:1])
    change[~np.isfinite(change)] = 0
    moved = change[2 : members.rounding.start].sum(0)
    within = change[members.rounding].max(0)
    return np.asarray((moved + within) * (dtype.unit / STEP))


def _textbook(
    define: Definition,
    exact: Mapping[str, np.ndarray],
    rest: Mapping[str, Any],
    dtype: Precision,
    want: np.ndarray,
    slopes: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The definition itself, run in the case's own dtype.

    Returns its error, inf where it overflows, and the errors of its derivatives that an overflow
    brings about, in the loss or on the way back: inf again, or what an infinity in between left.
    """
    wanted = list(slopes)
    known = dict(rest)
    for name, view in exact.items():
        with np.errstate(all="ignore"):
            inward = np.where(np.isfinite(view), np.nextafter(view, np.zeros_like(view)), view)
        known[name] = np.stack([view, inward.astype(view.dtype)]).astype(dtype.numpy)

    def evaluate(tensors: tuple[Any, ...]) -> Any:
        given = {**known, **dict(zip(wanted, tensors, strict=True))}
        return define(**{name: given[name] for name in _arguments(define)})

    back, result = make_vjp(evaluate)(tuple(known[name] for name in wanted))
    got = as_extended(np.broadcast_to(np.asarray(result), want.shape))
    error = np.abs(got - want)
    hopeless = ~np.isfinite(got) & np.isfinite(want)
    error = np.where(hopeless, np.inf, np.where(np.isfinite(error), error, 0))
    # So many times over, lest it matter in which order a derivative's factors are multiplied.
    derivatives = back(np.full(want.shape, SLACK, dtype.numpy))
    slips = {}
    for name, derivative in zip(wanted, derivatives, strict=True):
        slip = np.abs(as_extended(derivative[0]) / SLACK - slopes[name][0])
        overflow = hopeless[0].reshape(hopeless[0].shape + (1,) * (slip.ndim - hopeless[0].ndim))
        slips[name] = np.where(np.isfinite(slip), np.where(overflow, slip, 0), np.inf)
    return np.asarray(error.max(0)), slips
