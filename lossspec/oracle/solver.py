"""Solve a case: compute the right answer in extended precision, and bound the effect of rounding.

The right answer comes with a *budget*: the largest error that a correct implementation may have
because it rounds in the dtype of the case. For each loss and each derivative it is

    budget = SLACK · (sensitivity + u · |number| + error of the plain formula + tiny).

Here `SLACK` is a constant factor (`lossspec.thresholds`), u is the unit roundoff of the dtype,
number is the loss or the derivative, and tiny is the size below which kernels may return 0. The
plain formula is `define` of the spec, evaluated in the dtype of the case instead of extended
precision. docs/budget.md gives the reasons for each term.

The sensitivity is how far the number moves if every input and every step is rounded. It is measured
by a method that the literature calls Monte Carlo arithmetic (CESTAC, MCA): `define` runs on copies
of the case in which an input, or the result of each step, is perturbed. The copies are called
*members*, and all of them together an *ensemble* (`lossspec.maths.ensemble`). Here the
perturbations are fixed patterns, not random numbers, so a case always has the same budget.

`solve` works in five steps:

1. `_pose` transposes the tensors into the axis order that `define` expects, replaces ignored
   elements by zeros, and plans the members.
2. `_evaluated` runs and differentiates `define` in `numpy.longdouble`, in all members at once.
   Member 0 is the case itself: its losses and derivatives are the right answer.
3. `_sensitivity` measures how far the results of the perturbed members are from the unperturbed
   result. It adds up the members with perturbed inputs, and takes the largest of the members with
   perturbed steps. Scaled to one unit roundoff, this is the effect of rounding on a correct
   implementation.
4. `_plain_formula_errors` runs `define` once more, in the dtype of the case. The error of that run
   is added to the budget, so a correct implementation may overflow where the plain formula does.
5. `_budget_of_losses` and `_budget_of_derivative` combine these errors. They mark a number as open
   (not judged, with an infinite budget) if no error bound is known, for example after an overflow.

`solve_second` does the same for second derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import make_vjp
from autograd.tracer import getval

from lossspec.cases.axes import axes_of, simplex
from lossspec.cases.case import Case
from lossspec.dtypes import Extended, Precision, as_extended, precision
from lossspec.errors import OutOfRoom, SpecError, blaming
from lossspec.excuse import Excuse
from lossspec.maths import words
from lossspec.maths.ensemble import ROUNDING_MEMBERS, SIDES, Ensemble, ensemble, step_of
from lossspec.maths.number import Number, array_of, vector
from lossspec.oracle.bounds import REASONS, Bounded, why_open
from lossspec.oracle.expected import Expected, Whole
from lossspec.oracle.placement import Placed, placed_axes
from lossspec.spec.constrained import Constrained, Mask
from lossspec.spec.loss import Definition, Loss
from lossspec.spec.roles import ClassIndex
from lossspec.thresholds import (
    FREE_STEP,
    LUCK_FACTORS,
    OWN_MEMBERS,
    SECOND_ORDER_ROUNDINGS,
    SLACK,
    VAGUE,
    second_order_error,
)


@cache
def _arguments(define: Definition) -> tuple[str, ...]:
    return tuple(inspect.signature(define).parameters)


@dataclass
class SolvedCase:
    """A case with its right answer, which is computed on first access.

    Attributes:
        loss: The spec.
        case: The case.
        choices: The choices with which Hypothesis drew the case; empty if it was not drawn.
        dtypes: The dtypes that Hypothesis chose from; None for all.
    """

    loss: Loss
    case: Case
    choices: tuple[int, ...] = ()
    dtypes: tuple[str, ...] | None = None

    def changed(self, case: Case) -> SolvedCase:
        """Return `case`, which was derived from this one, with the same choices and dtypes."""
        return SolvedCase(self.loss, case, self.choices, self.dtypes)

    @cached_property
    def expected(self) -> Expected:
        """The right answer, for any reduction and cotangent.

        Raises:
            SpecError: The definition raises, or is nan for numbers that its roles allow.
        """
        expected = solve(self.loss, self.case)
        check_defined(self.loss, expected)
        return expected


@dataclass(frozen=True)
class _Posed:
    """A case in the axes that `define` sees: the member axis, then loop axes, then core axes.

    Loop axes are the axes of the unreduced loss, such as the batch. Core axes are the other axes of
    a tensor, such as the classes.

    Attributes:
        loss: The spec.
        case: The case.
        define: The definition of the case's form.
        precision: The properties of the case's dtype.
        sizes: The size of each axis by name.
        loop: The sizes of the loop axes, which are those of the unreduced loss.
        exact: The floating-point tensors, in the case's dtype and without the member axis.
        fixed: The integer tensors, without the member axis.
        placed: How the axes of each tensor map to those of `define`.
        counted: A mask of shape `loop`, False for ignored elements.
        patterns: For each floating-point tensor, its perturbations: one array over its core axes
            for each member that perturbs it.
        wanted: The names of the tensors to differentiate by.
        ensemble: The number of members, the size of a perturbation, and notes on the evaluation.
        coupled: The axis of coupled rows; "" if the rows are independent.
    """

    loss: Loss
    case: Case
    define: Definition
    precision: Precision
    sizes: Mapping[str, int]
    loop: tuple[int, ...]
    exact: Mapping[str, np.ndarray]
    fixed: Mapping[str, np.ndarray]
    placed: Mapping[str, Placed]
    counted: np.ndarray
    patterns: Mapping[str, list[np.ndarray]]
    wanted: tuple[str, ...]
    ensemble: Ensemble
    coupled: str
    _members: dict[str, np.ndarray] = field(default_factory=dict)

    def members(self, name: str) -> np.ndarray:
        """Return a floating-point tensor in every member, of shape (members, *loop, *core)."""
        if name not in self._members:
            view, ensemble = self.exact[name], self.ensemble
            ensemble.take(ensemble.size * view.size)
            self._members[name] = _members(
                view,
                name,
                self.placed[name].core,
                self.patterns,
                ensemble.size,
                self.precision,
                ensemble.step,
            )
        return self._members[name]

    def rest(self, real: type) -> dict[str, Any]:
        """Return the arguments of `define` other than the floating-point tensors of the case.

        These are the defaults of omitted tensors, the integer tensors and the parameters.

        Args:
            real: The floating-point type of the returned numbers.
        """
        contract = self.case.shape
        roles = self.loss.roles(self.loss.form(self.case.form))
        given: dict[str, Any] = {}
        for name, role in roles.items():
            if name not in self.case.tensors:
                shape = role.shape or ""
                own = contract.axes(shape) if shape.startswith("(") else ()
                looped = {*contract.result} - {self.coupled}
                core = tuple(self.sizes[axis] for axis in own if axis not in looped)
                kind = np.dtype(role.dtypes[0]) if role.integer else real
                given[name] = np.full((1,) * (1 + len(self.loop)) + core, role.default, kind)
        for name, view in self.fixed.items():
            role = roles[name]
            if isinstance(role, ClassIndex) and role.one_hot:
                given[name] = Number(_one_hot(view[None], self.sizes[role.classes], real))
            else:
                given[name] = view[None]
        for name, value in self.case.parameters.items():
            if isinstance(value, tuple):
                value = vector(value, 1 + len(self.loop), real)
            given[name] = real(value) if isinstance(value, float) else value
        return given

    @cached_property
    def _still(self) -> dict[str, Any]:
        return self.rest(Extended)

    def evaluate(self, part: Definition, tensors: Any) -> Any:
        """Evaluate one of the spec's functions in every member.

        Args:
            part: `define`, `divisor` or `share`.
            tensors: The values of the tensors in `wanted`, in that order.

        Returns:
            The result, which broadcasts to shape (members, *loop).
        """
        given = {name: Number(tensors[i]) for i, name in enumerate(self.wanted)}
        for name in _arguments(part):
            if name not in given:
                still = name in self._still
                given[name] = self._still[name] if still else Number(self.members(name))
        return self.own_rows(array_of(part(**{name: given[name] for name in _arguments(part)})))

    def own_rows(self, results: Any) -> Any:
        """Return the loss of each row, if the rows are coupled.

        The whole batch is evaluated once for each row, so that each loss has derivatives of its
        own: along the loop axis of the rows lie copies of the batch.

        Args:
            results: What a function of the spec returned: for each copy the losses of all rows,
                along a last axis.

        Returns:
            From each copy the loss of its own row.
        """
        if not self.coupled:
            return results
        loop, rows = self.case.shape.result, self.sizes[self.coupled]
        shape = np.shape(getval(results))
        if len(shape) != 2 + len(loop) or shape[-1] not in (1, rows):
            raise SpecError(
                f"the rows along {self.coupled!r} are coupled, so the result must have one loss "
                f"for each of the {rows} rows along its last axis; got {list(shape[1:])}"
            )
        row = np.arange(rows).reshape((-1,) + (1,) * (len(loop) - 1 - loop.index(self.coupled)))
        return words.pick(anp.broadcast_to(results, (*shape[:-1], rows)), row)

    @property
    def differentiable(self) -> tuple[np.ndarray, ...]:
        """The tensors in `wanted` in every member: the argument `tensors` of `evaluate`."""
        return tuple(self.members(name) for name in self.wanted)

    def each(self, part: Definition | None) -> np.ndarray:
        """Return one number for each element of the loss, of shape `loop`.

        Args:
            part: `divisor` of the form gives the summand of each element in the divisor of the
                mean. `share` gives the factor of each element in the mean. None gives 1.
        """
        if part is None:
            return np.ones(self.loop, Extended)
        form = self.loss.form(self.case.form)
        name = "divisor" if part is form.divisor else "share"
        with blaming(self.loss.name, name, self.case.tensors):
            made = np.asarray(self.evaluate(part, self.differentiable), Extended)
            return np.broadcast_to(made, (self.ensemble.size, *self.loop))[0]

    def mask(self, name: str) -> np.ndarray:
        """Return `counted` in a shape that broadcasts to a tensor with its core axes."""
        return self.counted.reshape(self.counted.shape + (1,) * self.placed[name].core)


def _check_room(case: Case, room: float) -> None:
    """Raise OutOfRoom if the tensors hold more than `room` numbers, before any is copied."""
    if sum(array.size for array in case.tensors.values()) > room:
        raise OutOfRoom(f"the tensors have more than {room:,.0f} numbers")


def _pose(
    loss: Loss,
    case: Case,
    *,
    free: bool = False,
    gradients: bool = True,
    room: float = float("inf"),
) -> _Posed:
    """Return a case in the axes of `define`, and plan the members of its ensemble.

    Args:
        loss: The spec.
        case: The case.
        free: As in `Ensemble.free`.
        gradients: Whether derivatives are wanted.
        room: How many numbers the evaluation may compute in all arrays together. If it needs more,
            it raises OutOfRoom.
    """
    _check_room(case, room)
    form, contract = loss.form(case.form), case.shape
    coupled = loss.coupled_axis(contract)
    dtype, roles = precision(case.dtype), loss.roles(form)
    sizes = case.axis_sizes(loss)
    loop = tuple(sizes[axis] for axis in contract.result)
    exact: dict[str, np.ndarray] = {}
    fixed: dict[str, np.ndarray] = {}
    placed: dict[str, Placed] = {}
    counted = np.ones(loop, bool)
    for name, array in case.tensors.items():
        role = roles[name]
        own = axes_of(loss, form, contract, name, array.ndim)
        placed[name] = placed_axes(array, own, contract, coupled)
        view = placed[name].enter(array, loop)
        if not role.integer:
            exact[name] = view
            continue
        if isinstance(role, ClassIndex) and role.ignored_by is not None:
            counted = counted & (view != case.parameters.get(role.ignored_by))
            view = np.where(counted, view, np.zeros_like(view))
        fixed[name] = view if isinstance(role, Mask) else view.astype(np.int64)
    if not counted.all():
        exact = _without_ignored(exact, placed, counted)
    patterns = _patterns(exact, placed)
    size = 2 + sum(map(len, patterns.values())) + ROUNDING_MEMBERS + SIDES
    # In a free ensemble a perturbation is about as large as a rounding error, so that the members
    # take the branches that a rounded computation may take.
    step = FREE_STEP * dtype.unit if free else step_of(dtype.unit)
    return _Posed(
        loss=loss,
        case=case,
        define=form.define or loss.define,
        precision=dtype,
        sizes=sizes,
        loop=loop,
        exact=exact,
        fixed=fixed,
        placed=placed,
        counted=counted,
        patterns=patterns,
        wanted=tuple(name for name in exact if gradients and roles[name].differentiable),
        ensemble=Ensemble(
            size, dtype.unit, dtype.smallest, SLACK, free, step, room, loop_axes=len(loop)
        ),
        coupled=coupled,
    )


def _without_ignored(
    exact: Mapping[str, np.ndarray], placed: Mapping[str, Placed], counted: np.ndarray
) -> dict[str, np.ndarray]:
    """Replace the numbers of ignored elements by zeros, since they must not affect the result."""
    masks = {n: counted.reshape(counted.shape + (1,) * placed[n].core) for n in exact}
    return {n: np.where(masks[n], view, np.zeros_like(view)) for n, view in exact.items()}


def counts(loss: Loss, case: Case, room: float = float("inf")) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers that decide the divisor of the mean, without solving the case.

    They are needed before a large call is solved in parts (`lossspec.oracle.parts`).

    Args:
        loss: The spec.
        case: The case.
        room: As in `_pose`.

    Returns:
        The summand of each element in the divisor of the mean, and a mask that is False for ignored
        elements. Both have the shape of the unreduced loss.
    """
    posed = _pose(loss, case, gradients=False, room=room)
    with np.errstate(all="ignore"), ensemble(posed.ensemble):
        each = posed.each(loss.form(case.form).divisor)
    return np.where(posed.counted, each, 0), posed.counted


def numbers_made(loss: Loss, case: Case) -> float:
    """Return how many numbers the definition makes on the way to the losses of a case.

    Args:
        loss: The spec.
        case: The case.
    """
    posed = _pose(loss, case, gradients=False)
    with np.errstate(all="ignore"), ensemble(posed.ensemble):
        posed.evaluate(posed.define, posed.differentiable)
    return posed.ensemble.numbers / posed.ensemble.size


def solve(
    loss: Loss,
    case: Case,
    *,
    whole: Whole | None = None,
    gradients: bool = True,
    room: float = float("inf"),
) -> Expected:
    """Return the right answer of a case: evaluate and differentiate its definition.

    Args:
        loss: The spec.
        case: The case.
        whole: The whole call, if the case is a part of it (`lossspec.oracle.parts`). By default the
            case is the whole call.
        gradients: Whether derivatives are wanted.
        room: As in `_pose`.

    Raises:
        OutOfRoom: More numbers than `room` are needed.
        SpecError: A function of the spec raises.
    """
    posed = _pose(loss, case, gradients=gradients, room=room)
    form, loop, dtype = loss.form(case.form), posed.loop, posed.precision

    with np.errstate(all="ignore"), ensemble(posed.ensemble):
        losses, derivatives, overflows = _evaluated(posed)
        stated = posed.ensemble.stated_nan(loop)
        counts = np.where(posed.counted, posed.each(form.divisor), 0)
        shares = posed.each(form.share)
    if whole is None:
        whole = Whole(case, counts, posed.counted, dtype, case.parts(loss), form.mean)

    with np.errstate(all="ignore"):
        cotangents = _trial_cotangents(posed, whole, shares) if posed.wanted else []
        plain, plain_back = _plain_formula_errors(posed, losses[:2], derivatives, cotangents)
        budget = _sensitivity(losses, posed.ensemble, dtype)
        budget = budget + dtype.unit * np.abs(losses[0]) + plain + dtype.negligible
        budget, why = _budget_of_losses(losses, budget, plain, overflows)
        bounded = {
            name: _budget_of_derivative(
                posed, whole, name, losses[0], why, derivative, plain_back[name]
            )
            for name, derivative in derivatives.items()
        }
        for name, lost in _lost_products(posed, whole).items():
            sides, error, reason = bounded[name]
            bounded[name] = sides, np.where(lost < np.inf, np.fmax(error, lost), error), reason
        for other in _equivalents(posed):
            budget, why, bounded = _widened(
                other, whole, losses[0], why, budget, bounded, cotangents
            )
    return Expected(
        case=case,
        losses=np.where(posed.counted, losses[0], 0),
        budget=np.where(posed.counted, budget, 0),
        counts=counts,
        shares=shares,
        counted=posed.counted,
        derivatives={name: (sides, error) for name, (sides, error, _) in bounded.items()},
        placed=posed.placed,
        precision=dtype,
        simplex=simplex(loss, case),
        whole=whole,
        compared=posed.ensemble.compared,
        stated=stated,
        why=np.where(posed.counted, why, 0).astype(np.int8),
        why_derivative={name: reason for name, (_, _, reason) in bounded.items()},
    )


_Derivatives = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def _equivalents(posed: _Posed) -> Iterator[_Posed]:
    """Yield the case as each equivalent form of its definition sees it, in a new ensemble."""
    form = posed.loss.form(posed.case.form)
    for define in posed.loss.equivalents_of(form):
        fresh = posed.ensemble.fresh()
        yield replace(posed, define=define, ensemble=fresh)
        posed.ensemble.numbers = fresh.numbers


def _widened(
    posed: _Posed,
    whole: Whole,
    losses: np.ndarray,
    why: np.ndarray,
    budget: np.ndarray,
    bounded: _Derivatives,
    cotangents: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, _Derivatives]:
    """Widen the budgets of a definition so that they cover an equivalent form.

    Args:
        posed: The case as the equivalent form sees it.
        whole: The call that the case is part of.
        losses: The exact losses by the definition.
        why: Why a loss by the definition is open.
        budget: The budgets of the losses so far.
        bounded: For each tensor the derivatives, their errors and why an error is infinite, so far.
        cotangents: The cotangents to run the plain formula with.

    Returns:
        The new `budget`, `why` and `bounded`. Two derivatives that differ by more than rounding
        are both correct, as at a kink.
    """
    with ensemble(posed.ensemble):
        own, derivatives, _ = _evaluated(posed)
    dtype = posed.precision
    plain, plain_back = _plain_formula_errors(posed, own[:2], derivatives, cotangents)
    error = _sensitivity(own, posed.ensemble, dtype) + dtype.unit * np.abs(own[0]) + plain
    apart = np.abs(own[0] - losses)
    error = error + np.where(np.isfinite(apart), apart, 0) / SLACK
    opened = np.isinf(error) & np.isfinite(budget) & (budget > 0)
    why_widened = np.where(opened, why_open(Excuse.OVERFLOW, opened), why)
    budget = np.where(np.isfinite(budget) & (budget > 0), np.fmax(budget, error), budget)
    widened = {}
    for name, (sides, known, reason) in bounded.items():
        others, error, lost = _budget_of_derivative(
            posed, whole, name, losses, why, derivatives[name], plain_back[name]
        )
        apart = np.abs(others - sides[:1])
        equal = ~(apart > SLACK * np.maximum(known, error))
        error = np.fmax(known, error + np.where(equal, apart, 0).max(0) / SLACK)
        sides = np.concatenate([sides, np.where(equal, sides[:1], others)])
        reason = np.where(np.isfinite(known) & np.isinf(error), lost, reason)
        widened[name] = (sides, np.where(np.isfinite(known), error, known), reason)
    return budget, why_widened, widened


def _budget_of_losses(
    losses: np.ndarray, budget: np.ndarray, plain: np.ndarray, overflows: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the budget of each loss, and the reason if it is infinite, as an index in `REASONS`.

    A loss that is infinite by definition must be reproduced exactly: its budget is 0. It is
    infinite by definition if it is infinite in every member and in the dtype of the case. If
    extended precision overflowed on the way, an infinite loss is open: its true size is unknown.

    Args:
        losses: The loss in every member.
        budget: The error bound of each loss, without the factor `SLACK`.
        plain: The error of the plain formula in the dtype of the case.
        overflows: Whether extended precision overflowed.
    """
    infinite = np.isinf(losses[0])
    why = np.where(infinite, 0, why_open(Excuse.OVERFLOW, np.isinf(plain)))
    if not infinite.any():
        return budget, why
    certain = (losses == losses[:1]).all(0) & (plain == 0) & (not overflows)
    reason = Excuse.OVERFLOW if overflows else Excuse.TOO_UNCERTAIN
    why = np.where(infinite & ~certain, why_open(reason, infinite), why)
    return np.where(infinite & certain, 0, budget), why


def check_defined(loss: Loss, expected: Expected) -> None:
    """Check that the definition is not nan for finite numbers that its roles allow.

    Raises:
        SpecError: The definition is nan there, and does not declare it with `maths.by_convention`.
    """
    lost = np.isnan(expected.losses) & expected.counted & ~expected.stated
    if not lost.any():
        return
    case = expected.case
    for name, outside in _outside(loss, case).items():
        lost &= ~expected.reached(name, outside)
    if not lost.any():
        return
    at = [int(i) for i in np.argwhere(lost)[0]]
    given = ", ".join(
        f"{name} = {_brief(array[(*at,)] if array.shape == lost.shape else array)}"
        for name, array in case.tensors.items()
    )
    given += "".join(f", {name} = {value!r}" for name, value in case.parameters.items())
    raise SpecError(
        f"spec {loss.name!r}: define is nan at {at} for finite numbers that its roles allow: "
        f"{given}; correct define, narrow the domain of a role, or declare the nan with "
        "maths.by_convention"
    )


def _brief(array: np.ndarray) -> str:
    """Return a number, or the first twelve numbers of a tensor and its shape if it has more."""
    listed = as_extended(array) if array.dtype.kind not in "iub" else array
    if not array.ndim:
        return f"{listed.item():.9g}"
    first = ", ".join(f"{x:.9g}" for x in listed.ravel()[:12].tolist())
    return f"[{first}]" if array.size <= 12 else f"[{first}, ...] of shape {list(array.shape)}"


def _outside(loss: Loss, case: Case) -> dict[str, np.ndarray]:
    """Return which numbers of each tensor are not finite, or outside the domain of its role."""
    roles, sizes = loss.roles(loss.form(case.form)), case.axis_sizes(loss)
    found = {}
    for name, array in case.tensors.items():
        role = roles[name]
        if isinstance(role, ClassIndex):
            found[name] = ~role.allows(array, sizes[role.classes], case.parameters)
            continue
        if isinstance(role, Constrained):
            axes = axes_of(loss, loss.form(case.form), case.shape, name, array.ndim)
            found[name] = ~role.holds(array, role.axis(axes))
            continue
        x = array.astype(np.float64)
        found[name] = ~(np.isfinite(x) & role.contains(x))
    return found


def _evaluated(posed: _Posed) -> tuple[np.ndarray, dict[str, Any], bool]:
    """Evaluate and differentiate the definition in every member.

    Returns:
        The unreduced losses, of shape (members, *loop); the derivative by each tensor in `wanted`,
        of shape (members, *loop, *core); whether extended precision overflowed.
    """
    overflows: list[str] = []
    with blaming(posed.loss.name, "define", posed.case.tensors):
        with np.errstate(over="call", call=lambda kind, flag: overflows.append(kind)):
            back, losses = _traced(lambda t: posed.evaluate(posed.define, t), posed.differentiable)
        shape = (posed.ensemble.size, *posed.loop)
        losses = np.broadcast_to(np.asarray(losses, Extended), shape)
        derivatives = dict(zip(posed.wanted, back(np.ones_like(losses)), strict=True))
        return losses, derivatives, bool(overflows)


def _trial_cotangents(posed: _Posed, whole: Whole, shares: np.ndarray) -> list[np.ndarray]:
    """Return the cotangents, each of shape `loop`, for the backward pass of the plain formula."""
    # A cotangent of `SLACK` instead of 1 leaves room for implementations that multiply the factors
    # of a derivative in another order, and overflow earlier.
    cotangents = [np.full(posed.loop, SLACK)]
    divisor = whole.divisor("mean")[0]
    if posed.case.reduction == "mean" and divisor != 0:
        # A mean divides the cotangent first, which may make its products subnormal. The rounding
        # error of a subnormal number depends on its digits, so try several cotangents. In float16
        # the cotangent itself may be subnormal.
        share = posed.case.upstream("mean") / divisor * shares
        factors = LUCK_FACTORS if posed.precision.name == "float16" else LUCK_FACTORS[:2]
        cotangents += [share * factor for factor in factors]
    return cotangents


def _lost_products(posed: _Posed, whole: Whole) -> dict[str, np.ndarray]:
    """Bound the derivatives' errors in float16 if a mean passes back a small cotangent.

    An implementation may multiply the cotangent by any factor of a derivative first. If that
    product is subnormal, its error is up to half the smallest number, and the other factors
    multiply the error. The factor itself then has that error divided by the cotangent. Other dtypes
    need no such bound: the size below which kernels may return 0 is far above their smallest
    number.

    Returns:
        For each tensor the error bound of its derivative, without the factor `SLACK`. It may be nan
        or infinite where the perturbed definition is. Empty if `SLACK` covers the cotangent.
    """
    reduction = posed.case.reduction
    if not posed.wanted or "mean" not in reduction or posed.precision.name != "float16":
        return {}
    divisor = whole.divisor(reduction)[0]
    cotangent = float(abs(as_extended(posed.case.upstream(reduction)) / divisor)) if divisor else 0
    if not 0 < SLACK * cotangent < 1:
        return {}
    members = replace(posed.ensemble.fresh(), absolute=1 / (SLACK * cotangent), room=float("inf"))
    with ensemble(members):
        _, derivatives, _ = _evaluated(replace(posed, ensemble=members))
    return {
        name: np.where(posed.mask(name), _sensitivity(derivative, members, posed.precision), 0)
        for name, derivative in derivatives.items()
    }


#: Why a derivative is open, in the order of the conditions in `_budget_of_derivative`.
_WHY_DERIVATIVE = [
    np.int8(REASONS.index(excuse))
    for excuse in (Excuse.UNDEFINED, Excuse.OVERFLOW, Excuse.KINK, Excuse.SUBNORMAL)
]


def _budget_of_derivative(
    posed: _Posed,
    whole: Whole,
    name: str,
    loss: np.ndarray,
    why_loss: np.ndarray,
    derivative: np.ndarray,
    plain_error: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the derivative by one tensor, its error bound, and the reason if that is infinite.

    Args:
        posed: The case.
        whole: The call that the case is a part of.
        name: The tensor.
        loss: The unreduced losses of member 0.
        why_loss: Why each loss is open.
        derivative: The derivative by the tensor in every member.
        plain_error: The error of the derivative of the plain formula.

    Returns:
        The exact derivative, followed on axis 0 by those of the `SIDES` members, which take
        one-sided derivatives at kinks. The error bound, without the factor `SLACK`. The index of
        the reason in `REASONS`. All three are 0 for ignored elements.
    """
    dtype = posed.precision
    error = _sensitivity(derivative, posed.ensemble, dtype) + dtype.negligible
    sides = derivative[[0, *range(-SIDES, 0)]]
    # A derivative is open if it is not finite, or if the loss overflows the dtype. It is also open
    # if more kinks meet than `SIDES` members can tell apart, or if the input is too near to 0.
    beyond, crowded = ~(np.abs(loss) < dtype.largest), posed.ensemble.crowded(posed.loop)
    core = posed.loop + (1,) * posed.placed[name].core
    beyond, crowded = beyond.reshape(core), crowded.reshape(core)
    tiny = whole.too_small(posed.exact[name])
    known = np.isfinite(sides[0])
    error = np.where(known & ~(beyond | crowded | tiny), error + plain_error, np.inf)
    mask = posed.mask(name)
    if np.isfinite(error).all():
        why = np.zeros(error.shape, np.int8)
    else:
        lost = ~np.isfinite(loss).reshape(core)
        conditions = [lost | ~known, beyond | np.isinf(plain_error), crowded, tiny]
        why = np.select(conditions, _WHY_DERIVATIVE, np.int8(0))
        why = np.where(lost, why_loss.reshape(core), why)
    return np.where(mask, sides, 0), np.where(mask, error, 0), np.where(mask, why, 0)


def solve_second(
    expected: Expected, loss: Loss, reduction: str, directions: Mapping[str, np.ndarray]
) -> dict[str, Bounded] | None:
    """Return the derivative, by each tensor, of the gradient's product with `directions`.

    The gradient is that of the reduced loss for the cotangent of the case. Numbers next to a kink
    or a branch are open.

    Args:
        expected: The first-order answer of the case.
        loss: The spec.
        reduction: One of the reductions of the loss.
        directions: For each differentiable tensor, an array of its shape.

    Returns:
        The Hessian-vector product by each tensor; None if the value is nan, because the mean
        divides by 0.
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

    parts = _curvatures(posed, cotangent, entered)
    others = [_curvatures(other, cotangent, entered) for other in _equivalents(posed)]
    bounded = {}
    with np.errstate(all="ignore"):
        for i, name in enumerate(posed.wanted):
            terms = [part[i] for part in parts]
            shape = case.tensors[name].shape
            curvature = np.sum(terms, axis=0)
            size = np.sum([np.abs(term[0]) for term in terms], axis=0)
            error = sum(_sensitivity(term, posed.ensemble, posed.precision) for term in terms)
            exact = np.where(posed.mask(name), curvature[0], 0)
            error = error + SECOND_ORDER_ROUNDINGS * posed.precision.unit * size
            error = error + posed.precision.smallest * (1 + np.abs(scale).max(initial=0))
            # A second derivative is open if it depends on the side that is taken at a kink.
            sided = np.abs(curvature[-SIDES:] - curvature[:1]).max(0) > SLACK * error
            # Torch promises no accuracy of second derivatives: grant half the digits of the dtype,
            # relative to the largest term.
            error = error + second_order_error(posed.precision.unit) * _largest(size)
            pointed = posed.ensemble.pointed(loop)
            sided |= pointed.reshape(loop + (1,) * posed.placed[name].core)
            for other in others:  # forms with other derivatives leave the second one open
                apart = np.abs(np.sum([part[i] for part in other], axis=0)[0] - curvature[0])
                sided |= apart > SLACK * error
            # A second derivative of 0, as in a linear piece, is compared with the largest one.
            vague = sided | (SLACK * error > VAGUE * np.where(size == 0, _largest(size), size))
            error = np.where(np.isfinite(curvature[0]) & ~vague, error, np.inf)
            placed = posed.placed[name]
            exact = np.asarray(placed.leave(exact, shape), Extended)
            budget = SLACK * placed.leave(error, shape)
            axis = expected.simplex.get(name)
            bounded[name] = Bounded.around(exact, budget, posed.precision.name, axis)
    return bounded


def _curvatures(
    posed: _Posed, cotangent: np.ndarray, entered: Mapping[str, np.ndarray]
) -> list[Sequence[np.ndarray]]:
    """Differentiate the product of each gradient with its direction, by every tensor.

    Args:
        posed: The case.
        cotangent: The cotangent of the gradient, in every member.
        entered: The direction of each tensor, as `define` sees it.

    Returns:
        For each direction in turn the derivatives by all tensors. An implementation rounds the
        product of each before adding them.
    """

    def along(tensors: Any, i: int) -> Any:
        back, _ = make_vjp(lambda t: posed.evaluate(posed.define, t))(tensors)
        return anp.sum(back(cotangent)[i] * entered[posed.wanted[i]])

    with (
        np.errstate(all="ignore"),
        ensemble(posed.ensemble),
        blaming(posed.loss.name, "the second derivative of define", posed.case.tensors),
    ):
        return [
            make_vjp(lambda t, i=i: along(t, i))(posed.differentiable)[0](Extended(1))
            for i in range(len(posed.wanted))
        ]


def _one_hot(index: np.ndarray, classes: int, real: type) -> np.ndarray:
    """Return the one-hot encoding of class indices along a new last axis."""
    return np.asarray(index[..., None] == np.arange(classes)).astype(real)


def _patterns(
    exact: Mapping[str, np.ndarray], placed: Mapping[str, Placed]
) -> dict[str, list[np.ndarray]]:
    """Return for each tensor its perturbations: one array for each member that perturbs it.

    Each array has the core axes of the tensor. In a tensor of up to `OWN_MEMBERS` core elements,
    each element is perturbed in a member of its own. In a larger tensor, eight members perturb all
    core elements at once, each member with another pattern of signs.
    """
    patterns = {}
    for name, view in exact.items():
        core = int(np.prod(view.shape[view.ndim - placed[name].core :]))
        if core <= OWN_MEMBERS:
            patterns[name] = list(np.eye(core))
        else:
            # Each element takes its signs from the bits of its own number in a random order. So two
            # elements rarely have the same signs in all patterns, and perturbations rarely cancel.
            codes = np.random.default_rng(core).permutation(max(256, core))[:core]
            patterns[name] = [np.where((codes >> bit) & 1, -1.0, 1.0) for bit in range(8)]
    return patterns


def _members(
    view: np.ndarray,
    name: str,
    axes: int,
    patterns: Mapping[str, list[np.ndarray]],
    size: int,
    dtype: Precision,
    step: float,
) -> np.ndarray:
    """Return one tensor in every member of the ensemble.

    `lossspec.maths.ensemble` lists the members in their order.

    Args:
        view: The tensor, of shape (*loop, *core).
        name: The name of the tensor.
        axes: How many of its axes are core axes.
        patterns: As in `_Posed`. The order of the tensors decides which members perturb which.
        size: How many members there are.
        dtype: The properties of the case's dtype.
        step: The relative size of a perturbation.

    Returns:
        An array of shape (size, *loop, *core) in extended precision.
    """
    members = np.empty((size, *view.shape), Extended)
    members[:] = as_extended(view)
    with np.errstate(all="ignore"):
        inward = np.nextafter(view, np.zeros_like(view))
        members[1] = as_extended(np.where(np.isfinite(view), inward, view))
    first = 2
    for other, before in patterns.items():
        if other == name:
            break
        first += len(before)
    core = view.shape[view.ndim - axes :]
    # A perturbation is relative to the number, as rounding is. Below about the smallest normal
    # number it is constant. A 0 is exact and is not perturbed.
    large = np.maximum(np.abs(members[0]), dtype.smallest / dtype.unit)
    large = np.where((members[0] == 0) | ~np.isfinite(large), 0, large)
    place = Extended(step) * np.copysign(large, members[0])
    for i, pattern in enumerate(patterns[name]):
        members[first + i] += place * pattern.reshape(core)
    return members


def _sensitivity(results: np.ndarray, members: Ensemble, dtype: Precision) -> np.ndarray:
    """Return how far a result moves under perturbations of one unit roundoff.

    Args:
        results: The result in every member, on axis 0.
        members: The ensemble.
        dtype: The properties of the case's dtype.

    Returns:
        The sum of the changes by perturbed inputs, plus the largest change by perturbed steps. It
        has the shape of the result in one member, and is scaled to one unit roundoff.
    """
    # Compare with the last member: at a kink it takes the same side as the perturbed members.
    # Members of a free ensemble choose their own sides, so compare them with the case itself.
    change = np.abs(results - (results[:1] if members.free else results[-1:]))
    change[~np.isfinite(change)] = 0
    moved = change[2 : members.rounding.start].sum(0)
    within = change[members.rounding].max(0)
    return np.asarray((moved + within) * (dtype.unit / members.step))


def _traced(
    function: Callable[[Any], Any], tensors: tuple[np.ndarray, ...]
) -> tuple[Callable[[Any], Sequence[Any]], Any]:
    """Return the vector-Jacobian product of a function at `tensors`, and the function's value."""
    if not tensors:
        return lambda cotangent: (), function(tensors)
    back, value = make_vjp(function)(tensors)
    return back, value


def _plain_formula_errors(
    posed: _Posed,
    want: np.ndarray,
    want_derivatives: Mapping[str, np.ndarray],
    cotangents: Sequence[np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Run the definition in the dtype of the case, forward and backward, and measure its errors.

    A correct implementation may be as inaccurate as this plain formula, for example by overflow.
    The formula also runs on inputs one ulp closer to 0, and one ulp farther from it.

    Args:
        posed: The case.
        want: The exact losses in member 0, the case, and in member 1, whose inputs are one ulp
            closer to 0.
        want_derivatives: The exact derivative by each tensor, in every member.
        cotangents: The cotangents to run the backward pass with, each of shape `loop`.

    Returns:
        The error of each loss, and for each tensor the error of each derivative. An error is
        infinite if the formula overflows, forward or backward.
    """
    dtype, define, wanted = posed.precision, posed.define, list(want_derivatives)
    known = posed.rest(dtype.numpy)
    for name, view in posed.exact.items():
        with np.errstate(all="ignore"):
            inward = np.where(np.isfinite(view), np.nextafter(view, np.zeros_like(view)), view)
            outward = np.nextafter(view, np.where(view < 0, -np.inf, np.inf).astype(view.dtype))
            outward = np.where(np.isfinite(outward) & (view != 0), outward, view)
        members = [view, inward.astype(view.dtype), outward.astype(view.dtype)]
        known[name] = np.stack(members).astype(dtype.numpy)

    still = {n: Number(x) if n in posed.exact else x for n, x in known.items()}

    def evaluate(tensors: tuple[Any, ...]) -> Any:
        given = {**still, **dict(zip(wanted, map(Number, tensors), strict=True))}
        named = {name: given[name] for name in _arguments(define)}
        return posed.own_rows(array_of(define(**named)))

    blamed = f"define in {dtype.name}"
    with blaming(posed.loss.name, blamed, posed.case.tensors):
        back, result = _traced(evaluate, tuple(known[name] for name in wanted))
        shape = (3, *want.shape[1:])
        got, beside = np.split(as_extended(np.broadcast_to(np.asarray(result), shape)), [2])
    error = np.abs(got - want)
    hopeless = ~np.isfinite(got) & np.isfinite(want)
    # One ulp farther from 0 an overflow counts too: an implementation may round differently.
    hopeless[0] |= np.isinf(beside[0]) & np.isfinite(want[0])
    error = np.where(hopeless, np.inf, np.where(np.isfinite(error), error, 0))
    # If the exact loss is infinite and that of the plain formula is not, a correct implementation
    # may be finite too.
    error[0] = np.where(np.isinf(want[0]) & (got[0] != want[0]), np.inf, error[0])
    errors = {name: np.zeros(()) for name in wanted}
    for cotangent in cotangents:
        with blaming(posed.loss.name, blamed, posed.case.tensors):
            derivatives = back(np.broadcast_to(cotangent.astype(dtype.numpy), shape))
        for name, derivative in zip(wanted, derivatives, strict=True):
            core = (1,) * (derivative[0].ndim - hopeless[0].ndim)
            overflow, by = (a.reshape(a.shape + core) for a in (hopeless[0], cotangent))
            got_derivative = as_extended(derivative[0]) / as_extended(by)
            away = np.abs(got_derivative - want_derivatives[name][0])
            # After an overflow, a derivative depends on the order in which factors are multiplied.
            lost = ~np.isfinite(away) | overflow
            errors[name] = np.maximum(
                errors[name], np.where(by == 0, 0, np.where(lost, np.inf, away))
            )
    return np.asarray(error.max(0)), errors


def _largest(size: np.ndarray) -> Any:
    return np.max(size, where=np.isfinite(size), initial=0)
