"""The right answer: value and gradient in extended precision, with their error budgets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import make_vjp

from lossspec.budget import (
    SLACK,
    Bounded,
    Extended,
    Precision,
    as_extended,
    precision,
    roundings,
)
from lossspec.cases import Case, published
from lossspec.maths import ROUNDING_MEMBERS, SIDES, Definition, Ensemble, ensemble, step_of
from lossspec.spec import ClassIndex, Distribution, Form, Loss, Shape, SpecError, blaming

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


def simplex(loss: Loss, case: Case) -> dict[str, int]:
    """For each tensor of a call whose numbers sum to 1 along an axis, that axis."""
    form = loss.form(case.form)
    return {
        name: axes_of(loss, form, case.shape, name, case.tensors[name].ndim).index("C")
        for name, role in form.tensors.items()
        if isinstance(role, Distribution)
    }


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
    placed: Mapping[str, _Placed]
    precision: Precision
    #: For tensors whose numbers sum to 1 along an axis, that axis.
    simplex: Mapping[str, int]
    #: Whether a nan was compared with a number, which may lose it.
    compared: bool = False
    #: Where the definition says itself that the loss is nan.
    stated: np.ndarray = field(default_factory=lambda: np.zeros((), bool))
    #: How many parts of the batch are added up one after the other.
    parts: int = 1
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
            return self._bounded(self.losses, SLACK * self.budget)
        exact, budget, divisor, divisor_error = self.divided(reduction)
        with np.errstate(all="ignore"):
            exact, budget = exact / divisor, budget / abs(divisor)
            budget = budget + abs(exact) * (divisor_error / abs(divisor) + self.precision.unit)
        return self._bounded(exact, SLACK * (budget + self.precision.negligible))

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
            budget = (self.budget * np.abs(shares)).sum() + unit * terms * size
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
        return self._bounded(exact, SLACK * budget, low, high, self.simplex.get(name))

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
        return replace(bounded, budget=np.where(ignored, np.inf, bounded.budget))

    def _bounded(
        self,
        exact: Any,
        budget: Any,
        low: np.ndarray | None = None,
        high: np.ndarray | None = None,
        free_axis: int | None = None,
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
        )


@dataclass
class Solved:
    """A case with its right answer, which is computed when first asked for."""

    loss: Loss
    case: Case

    @cached_property
    def expected(self) -> Expected:
        """The right answer, under any reduction and cotangent.

        SpecError where the definition raises, or is nan for numbers that its roles allow.
        """
        expected = solve(self.loss, self.case)
        check_defined(self.loss, expected)
        return expected


@dataclass(frozen=True)
class _Posed:
    """A case as its definition sees it: members, then loop axes, then core axes.

    exact : real tensors without the member axis. fixed : integers likewise. members : real tensors
    in every member of `ensemble`. wanted : the differentiable ones. counted : which elements count.
    """

    loss: Loss
    case: Case
    define: Definition
    precision: Precision
    sizes: Mapping[str, int]
    loop: tuple[int, ...]
    exact: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    placed: Mapping[str, _Placed]
    counted: np.ndarray
    members: Mapping[str, np.ndarray]
    wanted: tuple[str, ...]
    ensemble: Ensemble

    def rest(self, real: type) -> dict[str, Any]:
        """What a definition gets besides real tensors: defaults, indices and parameters."""
        contract = self.case.shape
        roles = self.loss.roles(self.loss.form(self.case.form))
        given: dict[str, Any] = {}
        for name, role in roles.items():
            if name not in self.case.tensors:
                shape = role.shape or ""
                own = contract.axes(shape) if shape.startswith("(") else ()
                core = tuple(self.sizes[axis] for axis in own if axis not in contract.result)
                given[name] = np.full((1,) * (1 + len(self.loop)) + core, role.default, real)
        for name, view in self.fixed.items():
            certain = _one_hot(roles[name])
            given[name] = _certain(view[None], self.sizes, real) if certain else view[None]
        for name, value in self.case.parameters.items():
            given[name] = real(value) if isinstance(value, float) else value
        return given

    @cached_property
    def _still(self) -> dict[str, Any]:
        real = {n: x for n, x in self.members.items() if n not in self.wanted}
        return {**self.rest(Extended), **real}

    def evaluate(self, part: Definition, tensors: Any) -> Any:
        """A function of the loss's arguments, for the differentiable tensors given."""
        known = {**self._still, **{name: tensors[i] for i, name in enumerate(self.wanted)}}
        return part(**{name: known[name] for name in _arguments(part)})

    @property
    def differentiable(self) -> tuple[np.ndarray, ...]:
        """The tensors that `evaluate` takes."""
        return tuple(self.members[name] for name in self.wanted)

    def mask(self, name: str) -> np.ndarray:
        """Which elements of a tensor's view belong to loss elements that count."""
        return self.counted.reshape(self.counted.shape + (1,) * self.placed[name].core)


def _pose(loss: Loss, case: Case, *, free: bool = False) -> _Posed:
    form, contract = loss.form(case.form), case.shape
    dtype = precision(case.dtype)
    roles = loss.roles(form)
    sizes = case.axis_sizes(loss)
    loop = tuple(sizes[axis] for axis in contract.result)
    exact: dict[str, np.ndarray] = {}
    fixed: dict[str, np.ndarray] = {}
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
    if not counted.all():
        for name, view in exact.items():
            # An ignored element's numbers must not matter: put harmless ones in their place.
            mask = counted.reshape(counted.shape + (1,) * placed[name].core)
            exact[name] = np.where(mask, view, np.zeros_like(view))
    moves = _moves(exact, placed)
    size = 2 + sum(map(len, moves.values())) + ROUNDING_MEMBERS + SIDES
    # Free members move by as much as rounding may, so that they meet the branches that it may.
    step = 4 * dtype.unit if free else step_of(dtype.unit)
    return _Posed(
        loss,
        case,
        form.define or loss.define,
        dtype,
        sizes,
        loop,
        exact,
        fixed,
        placed,
        counted,
        {
            name: _members(view, name, placed[name].core, moves, size, dtype, step)
            for name, view in exact.items()
        },
        tuple(name for name in exact if roles[name].differentiable),
        Ensemble(size, dtype.unit, dtype.smallest, SLACK, free, step),
    )


def solve(loss: Loss, case: Case) -> Expected:
    """Evaluate and differentiate a loss's definition for one case, in extended precision."""
    posed = _pose(loss, case)
    form, loop, dtype = loss.form(case.form), posed.loop, posed.precision
    members = posed.ensemble.size

    def each(part: Definition | None) -> np.ndarray:
        if part is None:
            return np.ones(loop, Extended)
        name = "divisor" if part is form.divisor else "share"
        with blaming(loss.name, name, case.tensors):
            given = np.asarray(posed.evaluate(part, posed.differentiable), Extended)
            return np.broadcast_to(given, (members, *loop))[0]

    with np.errstate(all="ignore"), ensemble(posed.ensemble):
        with blaming(loss.name, "define", case.tensors):
            back, losses = make_vjp(lambda t: posed.evaluate(posed.define, t))(posed.differentiable)
            losses = np.broadcast_to(np.asarray(losses, Extended), (members, *loop))
            derivatives = dict(zip(posed.wanted, back(np.ones_like(losses)), strict=True))
        stated = posed.ensemble.stated_nan(loop)
        counts, shares = each(form.divisor), each(form.share)

    with np.errstate(all="ignore"):
        textbook, slips = _textbook(
            posed, losses[:2], derivatives, _trial_cotangents(posed, counts, shares)
        )
        budget = _spread(losses, posed.ensemble, dtype)
        budget = budget + dtype.unit * np.abs(losses[0]) + textbook + dtype.negligible
        slopes = {
            name: _slope(posed, name, losses[0], derivative, slips[name])
            for name, derivative in derivatives.items()
        }
    return Expected(
        case,
        np.where(posed.counted, losses[0], 0),
        np.where(posed.counted, budget, 0),
        np.where(posed.counted, counts, 0),
        shares,
        posed.counted,
        slopes,
        posed.placed,
        dtype,
        simplex(loss, case),
        posed.ensemble.compared,
        stated,
        case.parts(loss),
    )


def check_defined(loss: Loss, expected: Expected) -> None:
    """Raise SpecError where the definition is nan for finite numbers that its roles allow."""
    lost = np.isnan(expected.losses) & expected.counted & ~expected.stated
    if not lost.any():
        return
    case = expected.case
    for name, outside in _outside(loss, case).items():
        lost &= ~expected.reached(name, outside)
    if not lost.any():
        return
    at = [int(i) for i in np.argwhere(lost)[0]]
    given = ", ".join(f"{name} = {_brief(array)}" for name, array in case.tensors.items())
    given += "".join(f", {name} = {value!r}" for name, value in case.parameters.items())
    raise SpecError(
        f"spec {loss.name!r}: define is nan at {at} for finite numbers that its roles allow: "
        f"{given}; mend it, narrow a role's domain, or say with maths.by_convention where nan is "
        "meant"
    )


def _brief(array: np.ndarray) -> str:
    """The first numbers of a tensor, and its shape where they are not all."""
    listed = as_extended(array) if array.dtype.kind not in "iub" else array
    first = ", ".join(f"{x:.9g}" for x in listed.ravel()[:12].tolist())
    return f"[{first}]" if array.size <= 12 else f"[{first}, ...] of shape {list(array.shape)}"


def _outside(loss: Loss, case: Case) -> dict[str, np.ndarray]:
    """Which numbers of each tensor are not finite, or none that its role allows."""
    roles, sizes = loss.roles(loss.form(case.form)), case.axis_sizes(loss)
    found = {}
    for name, array in case.tensors.items():
        role = roles[name]
        if isinstance(role, ClassIndex):
            found[name] = ~role.allows(array, sizes[role.classes], case.parameters)
            continue
        x = array.astype(np.float64)
        found[name] = ~(np.isfinite(x) & (x >= role.low) & (x <= role.high))
        if role.style in ("positive", "sign"):
            found[name] |= x == 0
    return found


def check_examples(loss: Loss) -> None:
    """Raise SpecError where the definition does not give the value of an example."""
    for example in loss.examples:
        where = f"spec {loss.name!r}: its example ({example.source})"
        try:
            case = published(loss, example)
            expected = Solved(loss, case).expected.value(case.reduction)
        except SpecError as error:
            said = str(error).removeprefix(f"spec {loss.name!r}: ")
            raise SpecError(f"{where}: {said}") from error
        except Exception as error:
            said = repr(str(error)[:300])
            raise SpecError(
                f"{where} cannot be computed: {type(error).__name__}: {said}"
            ) from error
        want = np.asarray(example.value, Extended)
        if want.shape != expected.exact.shape:
            raise SpecError(
                f"{where} has a value of shape {list(want.shape)}; "
                f"define gives shape {list(expected.exact.shape)}"
            )
        # Its arguments were rounded to the dtype, and its value to the digits that are stated.
        room = np.where(np.isfinite(expected.budget), expected.budget, 0)
        near = Bounded.around(want, room + 0.5 * 10.0**-example.digits, case.dtype)
        if (near.error(expected.exact) > 1).any():
            got = expected.exact.astype(np.float64).tolist()
            raise SpecError(f"{where} states {example.value!r}; define gives {got!r}")


def _trial_cotangents(posed: _Posed, counts: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """What the plain formula is differentiated with, to see what is lost on the way back."""
    # So many times over, lest it matter in which order a derivative's factors are multiplied.
    cotangents = [np.full(posed.loop, SLACK)]
    if posed.precision.name == "float16" and posed.case.reduction == "mean" and counts.any():
        # Divided first, what is on its way back may fall below the smallest numbers; how it is
        # rounded there is luck, so try several.
        share = posed.case.upstream("mean") / counts.sum() * shares
        cotangents += [share * luck for luck in (1.0, 0.8, 0.6)]
    return cotangents


def _slope(
    posed: _Posed, name: str, loss: np.ndarray, derivative: np.ndarray, slip: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The derivative by a tensor, itself and on each side of its kinks, and its error."""
    dtype = posed.precision
    error = _spread(derivative, posed.ensemble, dtype) + dtype.negligible
    sides = derivative[[0, *range(-SIDES, 0)]]
    # Where the dtype cannot hold the loss or its derivative no gradient is asked for; where many
    # kinks meet any is right that no one could list.
    asked = (np.abs(loss) < dtype.largest) & ~posed.ensemble.crowded(posed.loop)
    asked = asked.reshape(posed.loop + (1,) * posed.placed[name].core)
    # Logarithms of subnormal numbers are off by a few per cent where they come in vectors, and a
    # mean divides what is on its way back.
    parts = loss.size if "mean" in posed.case.reduction and dtype.name != "float16" else 1
    size = np.abs(as_extended(posed.exact[name]))
    asked = asked & ((size == 0) | (size >= dtype.negligible * parts))
    error = np.where(np.isfinite(sides[0]) & asked, error + slip, np.inf)
    mask = posed.mask(name)
    return np.where(mask, sides, 0), np.where(mask, error, 0)


def solve_second(
    expected: Expected, loss: Loss, reduction: str, directions: Mapping[str, np.ndarray]
) -> dict[str, Bounded] | None:
    """The derivative, by each tensor, of the gradient's product with `directions`.

    The gradient is that of the reduced loss for the case's cotangent. Next to a kink or a branch
    nothing is asked: there the budget is infinite, or as good as that. None where the value is nan.
    """
    case = expected.case
    posed = _pose(loss, case, free=True)
    scale = expected.scale(reduction, case.upstream(reduction))
    if scale is None:
        return None
    members, loop = posed.ensemble.size, posed.loop
    cotangent = np.broadcast_to(np.where(posed.counted, scale, 0), (members, *loop))
    entered = {
        name: posed.placed[name].enter(as_extended(directions[name]), loop) for name in posed.wanted
    }

    def along(tensors: Any, i: int) -> Any:
        back, _ = make_vjp(lambda t: posed.evaluate(posed.define, t))(tensors)
        return anp.sum(back(cotangent)[i] * entered[posed.wanted[i]])

    with (
        np.errstate(all="ignore"),
        ensemble(posed.ensemble),
        blaming(loss.name, "the second derivative of define", case.tensors),
    ):
        # One tensor's direction at a time: what they give is rounded before it is added up.
        parts = [
            make_vjp(lambda t, i=i: along(t, i))(posed.differentiable)[0](Extended(1))
            for i in range(len(posed.wanted))
        ]
    bounded = {}
    with np.errstate(all="ignore"):
        for name, *terms in zip(posed.wanted, *parts, strict=True):
            shape = case.tensors[name].shape
            curvature = np.sum(terms, axis=0)
            size = np.sum([np.abs(term[0]) for term in terms], axis=0)
            error = sum(_spread(term, posed.ensemble, posed.precision) for term in terms)
            exact = np.where(posed.mask(name), curvature[0], 0)
            error = error + 4 * posed.precision.unit * size
            error = error + posed.precision.smallest * (1 + np.abs(scale).max(initial=0))
            sided = np.abs(curvature[-SIDES:] - curvature[:1]).max(0) > SLACK * error
            # No accuracy is promised of second derivatives: half the digits, by the largest term.
            error = error + np.sqrt(posed.precision.unit) * _largest(size)
            pointed = posed.ensemble.pointed(loop)
            sided |= pointed.reshape(loop + (1,) * posed.placed[name].core)
            vague = sided | (SLACK * error > 0.1 * size)
            error = np.where(np.isfinite(curvature[0]) & ~vague, error, np.inf)
            placed = posed.placed[name]
            exact = np.asarray(placed.leave(exact, shape), Extended)
            budget = SLACK * placed.leave(error, shape)
            axis = expected.simplex.get(name)
            bounded[name] = Bounded.around(exact, budget, posed.precision.name, axis)
    return bounded


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
            # The bits of a number of its own for each: no two move alike, and no sum stays still.
            codes = np.random.default_rng(core).permutation(max(256, core))[:core]
            moves[name] = [np.where((codes >> bit) & 1, -1.0, 1.0) for bit in range(8)]
    return moves


def _members(
    view: np.ndarray,
    name: str,
    axes: int,
    moves: Mapping[str, list[np.ndarray]],
    size: int,
    dtype: Precision,
    step: float,
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
    # A unit in the last place is relative, never less than the smallest subnormal; 0 is exact.
    large = np.maximum(np.abs(members[0]), dtype.smallest / dtype.unit)
    large = np.where((members[0] == 0) | ~np.isfinite(large), 0, large)
    place = Extended(step) * np.copysign(large, members[0])
    for i, pattern in enumerate(moves[name]):
        members[first + i] += place * pattern.reshape(core)
    return members


def _spread(results: np.ndarray, members: Ensemble, dtype: Precision) -> np.ndarray:
    """What moving the inputs and rounding inside the words does to a result, in roundings."""
    # The last member takes the same sides as those that move; only free ones take their own.
    change = np.abs(results - (results[:1] if members.free else results[-1:]))
    change[~np.isfinite(change)] = 0
    moved = change[2 : members.rounding.start].sum(0)
    within = change[members.rounding].max(0)
    return np.asarray((moved + within) * (dtype.unit / members.step))


def _textbook(
    posed: _Posed,
    want: np.ndarray,
    slopes: Mapping[str, np.ndarray],
    cotangents: Sequence[np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The definition itself, run in the case's own dtype, and back from each of the cotangents.

    Returns its error and those of its derivatives; inf where it overflows, in the loss or on the
    way back. What the textbook loses, a right implementation may lose.
    """
    dtype, define, wanted = posed.precision, posed.define, list(slopes)
    known = posed.rest(dtype.numpy)
    for name, view in posed.exact.items():
        with np.errstate(all="ignore"):
            inward = np.where(np.isfinite(view), np.nextafter(view, np.zeros_like(view)), view)
        known[name] = np.stack([view, inward.astype(view.dtype)]).astype(dtype.numpy)

    def evaluate(tensors: tuple[Any, ...]) -> Any:
        given = {**known, **dict(zip(wanted, tensors, strict=True))}
        return define(**{name: given[name] for name in _arguments(define)})

    blamed = f"define in {dtype.name}"
    with blaming(posed.loss.name, blamed, posed.case.tensors):
        back, result = make_vjp(evaluate)(tuple(known[name] for name in wanted))
        got = as_extended(np.broadcast_to(np.asarray(result), want.shape))
    error = np.abs(got - want)
    hopeless = ~np.isfinite(got) & np.isfinite(want)
    error = np.where(hopeless, np.inf, np.where(np.isfinite(error), error, 0))
    slips = {name: np.zeros(()) for name in wanted}
    for cotangent in cotangents:
        with blaming(posed.loss.name, blamed, posed.case.tensors):
            derivatives = back(np.broadcast_to(cotangent.astype(dtype.numpy), want.shape))
        for name, derivative in zip(wanted, derivatives, strict=True):
            core = (1,) * (derivative[0].ndim - hopeless[0].ndim)
            overflow, value, by = (
                a.reshape(a.shape + core) for a in (hopeless[0], got[0], cotangent)
            )
            slip = np.abs(as_extended(derivative[0]) / as_extended(by) - slopes[name][0])
            lost = ~np.isfinite(slip) | (overflow & np.isnan(value))
            slips[name] = np.maximum(
                slips[name], np.where(by == 0, 0, np.where(lost, np.inf, slip))
            )
    return np.asarray(error.max(0)), slips


def _largest(size: np.ndarray) -> Any:
    return np.max(size, where=np.isfinite(size), initial=0)
