"""Solve a case: evaluate its definition in extended precision, and bound rounding."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd import make_vjp

from lossspec.cases.axes import axes_of, simplex
from lossspec.cases.case import Case
from lossspec.dtypes import Extended, Precision, as_extended, precision
from lossspec.errors import OutOfRoom, SpecError, blaming
from lossspec.excuse import Excuse
from lossspec.maths.ensemble import ROUNDING_MEMBERS, SIDES, Ensemble, ensemble, step_of
from lossspec.maths.number import Number, plain
from lossspec.oracle.bounds import REASONS, Bounded, why_open
from lossspec.oracle.expected import Expected, Whole
from lossspec.oracle.placement import Placed, placed_axes
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
    """A case with its right answer, which is computed when first asked for.

    choices, dtypes : what Hypothesis drew it with, and the dtypes that it chose from, None for all;
    no choices for a case that was not drawn.
    """

    loss: Loss
    case: Case
    choices: tuple[int, ...] = ()
    dtypes: tuple[str, ...] | None = None

    def changed(self, case: Case) -> SolvedCase:
        """Another case that was made from this one, drawn with the same choices."""
        return SolvedCase(self.loss, case, self.choices, self.dtypes)

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

    exact : real tensors without the member axis. fixed : integers likewise. moves : the patterns by
    which each of them is moved. wanted : the differentiable ones. counted : which elements count.
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
    moves: Mapping[str, list[np.ndarray]]
    wanted: tuple[str, ...]
    ensemble: Ensemble
    _members: dict[str, np.ndarray] = field(default_factory=dict)

    def members(self, name: str) -> np.ndarray:
        """A real tensor in every member of `ensemble`."""
        if name not in self._members:
            view, ensemble = self.exact[name], self.ensemble
            ensemble.take(ensemble.size * view.size)
            self._members[name] = _members(
                view,
                name,
                self.placed[name].core,
                self.moves,
                ensemble.size,
                self.precision,
                ensemble.step,
            )
        return self._members[name]

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
            role = roles[name]
            if isinstance(role, ClassIndex) and role.one_hot:
                given[name] = Number(_certain(view[None], self.sizes[role.classes], real))
            else:
                given[name] = view[None]
        for name, value in self.case.parameters.items():
            given[name] = real(value) if isinstance(value, float) else value
        return given

    @cached_property
    def _still(self) -> dict[str, Any]:
        return self.rest(Extended)

    def evaluate(self, part: Definition, tensors: Any) -> Any:
        """A function of the loss's arguments, for the differentiable tensors given."""
        given = {name: Number(tensors[i]) for i, name in enumerate(self.wanted)}
        for name in _arguments(part):
            if name not in given:
                still = name in self._still
                given[name] = self._still[name] if still else Number(self.members(name))
        return plain(part(**{name: given[name] for name in _arguments(part)}))

    @property
    def differentiable(self) -> tuple[np.ndarray, ...]:
        """The tensors that `evaluate` takes."""
        return tuple(self.members(name) for name in self.wanted)

    def each(self, part: Definition | None) -> np.ndarray:
        """The divisor or the share of each element of the loss."""
        if part is None:
            return np.ones(self.loop, Extended)
        form = self.loss.form(self.case.form)
        name = "divisor" if part is form.divisor else "share"
        with blaming(self.loss.name, name, self.case.tensors):
            made = np.asarray(self.evaluate(part, self.differentiable), Extended)
            return np.broadcast_to(made, (self.ensemble.size, *self.loop))[0]

    def mask(self, name: str) -> np.ndarray:
        """Which elements of a tensor's view belong to loss elements that count."""
        return self.counted.reshape(self.counted.shape + (1,) * self.placed[name].core)


def _check_room(case: Case, room: float) -> None:
    """Raise OutOfRoom for tensors of so many numbers before any of them is copied."""
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
    _check_room(case, room)
    form, contract = loss.form(case.form), case.shape
    dtype, roles = precision(case.dtype), loss.roles(form)
    sizes = case.axis_sizes(loss)
    loop = tuple(sizes[axis] for axis in contract.result)
    exact: dict[str, np.ndarray] = {}
    fixed: dict[str, np.ndarray] = {}
    placed: dict[str, Placed] = {}
    counted = np.ones(loop, bool)
    for name, array in case.tensors.items():
        role = roles[name]
        placed[name] = placed_axes(array, axes_of(loss, form, contract, name, array.ndim), contract)
        view = placed[name].enter(array, loop)
        if not role.integer:
            exact[name] = view
            continue
        if isinstance(role, ClassIndex) and role.ignored_by is not None:
            counted = counted & (view != case.parameters.get(role.ignored_by))
            view = np.where(counted, view, np.zeros_like(view))
        fixed[name] = view.astype(np.int64)
    if not counted.all():
        exact = _without_ignored(exact, placed, counted)
    moves = _moves(exact, placed)
    size = 2 + sum(map(len, moves.values())) + ROUNDING_MEMBERS + SIDES
    # Free members move by as much as rounding may, so that they meet the branches that it may.
    step = FREE_STEP * dtype.unit if free else step_of(dtype.unit)
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
        moves,
        tuple(name for name in exact if gradients and roles[name].differentiable),
        Ensemble(size, dtype.unit, dtype.smallest, SLACK, free, step, room),
    )


def _without_ignored(
    exact: Mapping[str, np.ndarray], placed: Mapping[str, Placed], counted: np.ndarray
) -> dict[str, np.ndarray]:
    """Harmless numbers in place of those of ignored elements, which must not matter."""
    masks = {n: counted.reshape(counted.shape + (1,) * placed[n].core) for n in exact}
    return {n: np.where(masks[n], view, np.zeros_like(view)) for n, view in exact.items()}


def counts(loss: Loss, case: Case, room: float = float("inf")) -> tuple[np.ndarray, np.ndarray]:
    """What each element counts for in the divisor of the mean, and whether it counts at all."""
    posed = _pose(loss, case, gradients=False, room=room)
    with np.errstate(all="ignore"), ensemble(posed.ensemble):
        each = posed.each(loss.form(case.form).divisor)
    return np.where(posed.counted, each, 0), posed.counted


def solve(
    loss: Loss,
    case: Case,
    *,
    whole: Whole | None = None,
    gradients: bool = True,
    room: float = float("inf"),
) -> Expected:
    """Evaluate and differentiate a loss's definition for one case, in extended precision.

    whole : the call that the case is a part of. gradients : whether derivatives are wanted. room :
    how many numbers may be made on the way, at least; OutOfRoom says that there are more.
    """
    posed = _pose(loss, case, gradients=gradients, room=room)
    form, loop, dtype = loss.form(case.form), posed.loop, posed.precision

    with np.errstate(all="ignore"), ensemble(posed.ensemble):
        losses, derivatives, overflows = _evaluated(posed)
        stated = posed.ensemble.stated_nan(loop)
        counts = np.where(posed.counted, posed.each(form.divisor), 0)
        shares = posed.each(form.share)
    if whole is None:
        whole = Whole(case, counts, posed.counted, dtype, case.parts(loss))

    with np.errstate(all="ignore"):
        cotangents = _trial_cotangents(posed, whole, shares) if posed.wanted else []
        textbook, slips = _textbook(posed, losses[:2], derivatives, cotangents)
        budget = _spread(losses, posed.ensemble, dtype)
        budget = budget + dtype.unit * np.abs(losses[0]) + textbook + dtype.negligible
        budget, why = _weighed(losses, budget, textbook, overflows)
        slopes = {
            name: _slope(posed, whole, name, losses[0], why, derivative, slips[name])
            for name, derivative in derivatives.items()
        }
        for other in _equivalents(posed):
            budget, slopes = _widened(other, whole, losses[0], why, budget, slopes, cotangents)
    return Expected(
        case,
        np.where(posed.counted, losses[0], 0),
        np.where(posed.counted, budget, 0),
        counts,
        shares,
        posed.counted,
        {name: (sides, error) for name, (sides, error, _) in slopes.items()},
        posed.placed,
        dtype,
        simplex(loss, case),
        whole,
        posed.ensemble.compared,
        stated,
        np.where(posed.counted, why, 0).astype(np.int8),
        {name: why_slope for name, (_, _, why_slope) in slopes.items()},
    )


_Slopes = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def _equivalents(posed: _Posed) -> Iterator[_Posed]:
    """Pose the case again for each equivalent form of its definition, with an ensemble of its own."""
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
    slopes: _Slopes,
    cotangents: Sequence[np.ndarray],
) -> tuple[np.ndarray, _Slopes]:
    """Widen the budgets of a definition so that they cover those of an equivalent form."""
    with ensemble(posed.ensemble):
        own, derivatives, _ = _evaluated(posed)
    dtype = posed.precision
    textbook, slips = _textbook(posed, own[:2], derivatives, cotangents)
    error = _spread(own, posed.ensemble, dtype) + dtype.unit * np.abs(own[0]) + textbook
    apart = np.abs(own[0] - losses)
    error = error + np.where(np.isfinite(apart), apart, 0) / SLACK
    budget = np.where(np.isfinite(budget) & (budget > 0), np.fmax(budget, error), budget)
    widened = {}
    for name, (sides, known, why_slope) in slopes.items():
        others, error, _ = _slope(posed, whole, name, losses, why, derivatives[name], slips[name])
        apart = np.abs(others - sides[:1])
        # Two derivatives that differ by more than rounding are both right, as at a kink.
        equal = ~(apart > SLACK * np.maximum(known, error))
        error = np.fmax(known, error + np.where(equal, apart, 0).max(0) / SLACK)
        sides = np.concatenate([sides, np.where(equal, sides[:1], others)])
        widened[name] = (sides, np.where(np.isfinite(known), error, known), why_slope)
    return budget, widened


def _weighed(
    losses: np.ndarray, budget: np.ndarray, textbook: np.ndarray, overflows: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The budget of each loss, which is 0 where it is infinite by definition, and why it is
    infinite.

    A loss is infinite by definition when rounding does not change that, nor the case's own dtype.
    Nobody can tell where a number lies that is so large that extended precision overflows.
    """
    infinite = np.isinf(losses[0])
    why = np.where(infinite, 0, why_open(Excuse.OVERFLOW, np.isinf(textbook)))
    if not infinite.any():
        return budget, why
    certain = (losses == losses[:1]).all(0) & (textbook == 0) & (not overflows)
    reason = Excuse.OVERFLOW if overflows else Excuse.TOO_UNCERTAIN
    why = np.where(infinite & ~certain, why_open(reason, infinite), why)
    return np.where(infinite & certain, 0, budget), why


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
        found[name] = ~(np.isfinite(x) & role.contains(x))
    return found


def _evaluated(posed: _Posed) -> tuple[np.ndarray, dict[str, Any], bool]:
    """The unreduced loss in every member of the ensemble, its derivatives by each tensor, and
    whether extended precision has overflowed."""
    overflows: list[str] = []
    with blaming(posed.loss.name, "define", posed.case.tensors):
        with np.errstate(over="call", call=lambda kind, flag: overflows.append(kind)):
            back, losses = _traced(lambda t: posed.evaluate(posed.define, t), posed.differentiable)
        shape = (posed.ensemble.size, *posed.loop)
        losses = np.broadcast_to(np.asarray(losses, Extended), shape)
        derivatives = dict(zip(posed.wanted, back(np.ones_like(losses)), strict=True))
        return losses, derivatives, bool(overflows)


def _trial_cotangents(posed: _Posed, whole: Whole, shares: np.ndarray) -> list[np.ndarray]:
    """What the plain formula is differentiated with, to see what is lost on the way back."""
    # So many times over, lest it matter in which order a derivative's factors are multiplied.
    cotangents = [np.full(posed.loop, SLACK)]
    halves = posed.precision.name == "float16" and posed.case.reduction == "mean"
    divisor = whole.divisor("mean")[0]
    if halves and divisor != 0:
        # Divided first, what is on its way back may fall below the smallest numbers; how it is
        # rounded there is luck, so try several.
        share = posed.case.upstream("mean") / divisor * shares
        cotangents += [share * luck for luck in LUCK_FACTORS]
    return cotangents


#: In the order of the conditions in `_slope`; a loss or slope that is no number has its own open.
_WHY_NO_SLOPE = [
    np.int8(REASONS.index(excuse))
    for excuse in (Excuse.UNDEFINED, Excuse.OVERFLOW, Excuse.KINK, Excuse.SUBNORMAL)
]


def _slope(
    posed: _Posed,
    whole: Whole,
    name: str,
    loss: np.ndarray,
    why_loss: np.ndarray,
    derivative: np.ndarray,
    slip: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The derivative by a tensor, itself and on each side of its kinks, its error, and why that is
    infinite.

    why_loss : why nothing is asked of the loss itself.
    """
    dtype = posed.precision
    error = _spread(derivative, posed.ensemble, dtype) + dtype.negligible
    sides = derivative[[0, *range(-SIDES, 0)]]
    # Where the dtype cannot hold the loss or its derivative no gradient is asked for; where many
    # kinks meet any is right that no one could list.
    beyond, crowded = ~(np.abs(loss) < dtype.largest), posed.ensemble.crowded(posed.loop)
    core = posed.loop + (1,) * posed.placed[name].core
    beyond, crowded = beyond.reshape(core), crowded.reshape(core)
    tiny = whole.too_small(posed.exact[name])
    known = np.isfinite(sides[0])
    error = np.where(known & ~(beyond | crowded | tiny), error + slip, np.inf)
    mask = posed.mask(name)
    if np.isfinite(error).all():
        why = np.zeros(error.shape, np.int8)
    else:
        lost = ~np.isfinite(loss).reshape(core)
        conditions = [lost | ~known, beyond | np.isinf(slip), crowded, tiny]
        why = np.select(conditions, _WHY_NO_SLOPE, np.int8(0))
        why = np.where(lost, why_loss.reshape(core), why)
    return np.where(mask, sides, 0), np.where(mask, error, 0), np.where(mask, why, 0)


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

    parts = _curvatures(posed, cotangent, entered)
    others = [_curvatures(other, cotangent, entered) for other in _equivalents(posed)]
    bounded = {}
    with np.errstate(all="ignore"):
        for i, name in enumerate(posed.wanted):
            terms = [part[i] for part in parts]
            shape = case.tensors[name].shape
            curvature = np.sum(terms, axis=0)
            size = np.sum([np.abs(term[0]) for term in terms], axis=0)
            error = sum(_spread(term, posed.ensemble, posed.precision) for term in terms)
            exact = np.where(posed.mask(name), curvature[0], 0)
            error = error + SECOND_ORDER_ROUNDINGS * posed.precision.unit * size
            error = error + posed.precision.smallest * (1 + np.abs(scale).max(initial=0))
            sided = np.abs(curvature[-SIDES:] - curvature[:1]).max(0) > SLACK * error
            # No accuracy is promised of second derivatives: half the digits, by the largest term.
            error = error + second_order_error(posed.precision.unit) * _largest(size)
            pointed = posed.ensemble.pointed(loop)
            sided |= pointed.reshape(loop + (1,) * posed.placed[name].core)
            for other in others:  # forms with other derivatives leave the second one open
                apart = np.abs(np.sum([part[i] for part in other], axis=0)[0] - curvature[0])
                sided |= apart > SLACK * error
            vague = sided | (SLACK * error > VAGUE * size)
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
    """The derivatives, by every tensor, of each gradient's product with its own direction.

    One tensor's direction at a time: the products are rounded before they are added up.
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


def _certain(index: np.ndarray, classes: int, real: type) -> np.ndarray:
    return np.asarray(index[..., None] == np.arange(classes)).astype(real)


def _moves(
    exact: Mapping[str, np.ndarray], placed: Mapping[str, Placed]
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


def _traced(
    function: Callable[[Any], Any], tensors: tuple[np.ndarray, ...]
) -> tuple[Callable[[Any], Sequence[Any]], Any]:
    """What leads from a cotangent of a function's value to its derivatives, and the value."""
    if not tensors:
        return lambda cotangent: (), function(tensors)
    back, value = make_vjp(function)(tensors)
    return back, value


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

    still = {n: Number(x) if n in posed.exact else x for n, x in known.items()}

    def evaluate(tensors: tuple[Any, ...]) -> Any:
        given = {**still, **dict(zip(wanted, map(Number, tensors), strict=True))}
        return plain(define(**{name: given[name] for name in _arguments(define)}))

    blamed = f"define in {dtype.name}"
    with blaming(posed.loss.name, blamed, posed.case.tensors):
        back, result = _traced(evaluate, tuple(known[name] for name in wanted))
        got = as_extended(np.broadcast_to(np.asarray(result), want.shape))
    error = np.abs(got - want)
    hopeless = ~np.isfinite(got) & np.isfinite(want)
    error = np.where(hopeless, np.inf, np.where(np.isfinite(error), error, 0))
    # Where the textbook loses an infinity, a right implementation may lose it too.
    error[0] = np.where(np.isinf(want[0]) & (got[0] != want[0]), np.inf, error[0])
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
