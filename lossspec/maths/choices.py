"""Words that choose between numbers: masks, absolute values, bounds and maxima."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval, isbox

from lossspec.maths.elementwise import array_like, log
from lossspec.maths.ensemble import SIDES, Array, compared, current, kept, kinked
from lossspec.maths.primitives import gathered, select, standing_for, sum_of, unbroadcast
from lossspec.thresholds import ANY_FINITE_SLOPE


def where(condition: Array, yes: Array, no: Array) -> Array:
    """Return `yes` where `condition` holds and `no` elsewhere.

    Masks are combined with `&`, `|` and `~`.

    Derivative: that of the branch that is taken; 0 by the other one, even if it is infinite.

    Rounding: none.

    Args:
        condition: A mask. The perturbed copies of a case keep its branches.
        yes: Numbers, of a shape that broadcasts with `condition`.
        no: Numbers, of a shape that broadcasts with `condition`.
    """
    condition = kept(np.asarray(getval(condition)))
    like = yes if np.ndim(getval(yes)) else no
    if not np.ndim(getval(like)):  # two parameters, which take the shape of the mask
        like = np.zeros(condition.shape, np.result_type(yes, no))
    yes, no = array_like(yes, like), array_like(no, like)
    compared(np.isnan(getval(yes)) != np.isnan(getval(no)))
    return select(condition, yes, no)


def absolute(x: Array) -> Array:
    """Return |x|, element by element.

    Derivative: the sign of x. At the kink 0, any value in [-1, 1] is correct.

    Rounding: none.
    """
    raw = getval(x)
    sign = np.sign(raw)
    # The value is |x| whichever side a member takes, since a root or a power may follow.
    value = raw * kept(sign)
    if current.ensemble is not None:
        rounding = current.ensemble.rounding
        # A rounded 0 has a size, although member 0 has no sign to keep.
        value[rounding] = np.broadcast_to(np.abs(raw), value.shape)[rounding]
    return standing_for(x, value, kinked(raw, sign, -1.0, 1.0))


def positive_part(x: Array) -> Array:
    """Return max(x, 0), element by element. nan stays nan.

    Derivative: 1 above 0 and 0 below. At the kink 0, any value in [0, 1] is correct.

    Rounding: none.
    """
    raw = getval(x)
    compared(np.isnan(raw))
    above = raw > 0
    slope = kinked(raw, above.astype(raw.dtype), 0.0, 1.0)
    # nan > 0 is false, but nan must not become 0.
    return select((slope != 0) | np.isnan(raw), x, anp.zeros_like(raw))


def minimum(x: Array, y: Array) -> Array:
    """Return the smaller of two arrays, element by element. If either is nan, so is the result.

    Derivative: 1 by the smaller one. Equal elements are a kink: any split of the derivative between
    them is correct.

    Rounding: none.
    """
    x, y = array_like(x, y), array_like(y, x)
    return select(_first(_lead(getval(y), getval(x))) | np.isnan(getval(x)), x, y)


def maximum(x: Array, y: Array) -> Array:
    """Return the larger of two arrays, element by element. If either is nan, so is the result.

    Derivative: 1 by the larger one. Equal elements are a kink: any split of the derivative between
    them is correct.

    Rounding: none.
    """
    x, y = array_like(x, y), array_like(y, x)
    return select(_first(_lead(getval(x), getval(y))) | np.isnan(getval(x)), x, y)


def _lead(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x - y, and 0 where both are the same infinity."""
    return np.where((x == y) & np.isinf(x), np.zeros_like(x), x - y)


def _first(lead: np.ndarray) -> np.ndarray:
    """Return whether the first of two is chosen, given by how much it leads; 0 is a kink."""
    compared(np.isnan(lead))
    return kinked(lead, (lead > 0).astype(lead.dtype), 0.0, 1.0) != 0


def largest(x: Array) -> Array:
    """Return the maximum over the last axis.

    Derivative: 1 by the largest element. If several are the largest there is a kink: any of them
    may have the derivative.

    Rounding: none.

    Args:
        x: Numbers of shape (..., K). With K = 0 the result is -inf.

    Returns:
        Numbers of shape (...).
    """
    raw = getval(x)
    compared(np.isnan(raw))
    if not raw.shape[-1]:
        return np.full_like(raw, -np.inf, shape=raw.shape[:-1])
    top = np.max(raw, axis=-1, keepdims=True)
    first = np.arange(raw.shape[-1]) == np.argmax(raw, axis=-1)[..., None]
    second = np.max(np.where(first, np.full_like(raw, -np.inf), raw), axis=-1, keepdims=True)
    lead = _lead(raw, np.where(first, second, top))  # over the largest of the others
    chosen = kinked(lead, first.astype(raw.dtype), 0.0, 1.0)
    # All choices give the same value. Adding `x - raw` instead is nan where x is infinite.
    return top[..., 0] + sum_of(standing_for(x, np.zeros_like(raw), chosen), axis=-1)


def clamped(x: Array, lowest: Array) -> Array:
    """Return max(x, lowest), with the gradient of a clamp that autograd does not see.

    Derivative: 1 by `x`, even where `lowest` is taken, and 0 by `lowest`.

    Rounding: none.

    Args:
        x: Numbers of any shape.
        lowest: A lower bound, of the shape of `x`.
    """
    raw, floor = getval(x), getval(array_like(lowest, x))
    return standing_for(x, np.where(kept(raw < floor), floor, raw), np.ones_like(raw))


def clamped_log(x: Array, lowest: float, held: Array) -> Array:
    """Return max(log(x), lowest).

    Derivative: 1/x, with two exceptions. If `lowest` is taken, any finite derivative of 0 or more
    is correct. If `held` is true, any derivative from 0 to 1/x is correct.

    Rounding: the result, once.

    Args:
        x: Numbers of 0 or more, of any shape.
        lowest: The lower bound of the logarithm.
        held: A mask of the shape of `x`.
    """
    raw = getval(x)
    cut = kept(np.log(raw) < lowest)
    zero, one = np.zeros_like(raw), np.ones_like(raw)
    x = _any_derivative(x, getval(held) & ~cut)
    slope = kinked(np.where(cut, zero, one), zero, ANY_FINITE_SLOPE, 0.0)
    floor = standing_for(x, np.full_like(raw, lowest), slope)
    return select(cut, floor, log(select(cut, one, x)))


def _any_derivative(x: Array, undecided: Array) -> Array:
    """Return `x`, and accept any derivative in [0, 1] where `undecided` holds.

    Elsewhere the derivative is 1. There is no rounding.

    Args:
        x: Numbers of any shape.
        undecided: A mask of the shape of `x`.
    """
    if not isbox(x):
        return x
    raw = getval(x)
    distance = np.where(kept(np.asarray(getval(undecided))), np.zeros_like(raw), np.ones_like(raw))
    # The perturbed members take the last side, as in `Ensemble.sided`; it has the derivative 0.
    return standing_for(x, raw, kinked(distance, np.ones_like(raw), 1.0, 0.0))


def by_convention(x: Array, value: float, undefined: np.ndarray) -> Array:
    """Return `x`, and the conventional `value` where the formula is undefined.

    Derivative: 1. It is nan if the formula is undefined, so that the gradient is not judged.

    Rounding: none.

    Args:
        x: Numbers of any shape.
        value: The value by convention. With nan the definition declares that its result is nan for
            valid numbers; otherwise nan is an error of the spec.
        undefined: A mask that broadcasts to the shape of `x`.
    """
    raw, undefined = getval(x), kept(np.asarray(getval(undefined)))
    if np.isnan(value) and current.ensemble is not None:
        current.ensemble.stated.append(np.broadcast_to(undefined, raw.shape)[0])
    agreed = np.where(undefined, np.full_like(raw, value), raw)
    return standing_for(x, agreed, np.where(undefined, np.full_like(raw, np.nan), 1))


def sort(x: Array, descending: bool = False) -> Array:
    """Return the elements of the last axis in ascending order; nan comes last.

    Derivative: 1 by the element that comes to the place. Equal elements are a kink: each may have
    the derivative of any of their places.

    Rounding: none.

    Args:
        x: Numbers of shape (..., K).
        descending: Whether the largest element comes first.

    Returns:
        Numbers of shape (..., K).
    """
    return _sorted(x, *_order(getval(x), descending))


@primitive
def _sorted(x: Array, order: np.ndarray, close: np.ndarray, sides: np.ndarray) -> Array:
    return np.take_along_axis(x, order, -1)


defvjp(
    _sorted,
    lambda ans, x, order, close, sides: (
        lambda g: unbroadcast(gathered(g, _sources(getval(g), order, close, sides)), np.shape(x))
    ),
    None,
    None,
    None,
)


def _order(raw: np.ndarray, descending: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how to sort the last axis, in each member.

    Args:
        raw: Numbers of shape (members, ..., K).
        descending: Whether the largest element comes first.

    Returns:
        The indices of the sorted elements, of shape (members, ..., K). A mask of shape (..., K - 1)
        of the places that rounding may swap with the next. For each member: 1 if it takes the
        highest derivative at ties, 0 if it takes the lowest, -1 if it takes that of its own order.
    """
    compared(np.isnan(raw))
    order = kept(np.argsort(-raw if descending else raw, axis=-1, kind="stable"))
    sides = np.full(len(order), -1)
    if current.ensemble is None or not raw.shape[-1]:
        return order, np.zeros((*raw.shape[1:-1], max(raw.shape[-1] - 1, 0)), bool), sides
    order[-SIDES:] = order[:1]
    places = np.take_along_axis(raw, order, -1)
    close, sides[-SIDES:] = current.ensemble.met(_lead(places[..., 1:], places[..., :-1]))
    if not current.ensemble.free:
        sides[2:-SIDES] = 1  # as in the last member, with which these are compared
    return order, close, sides


def _groups(close: np.ndarray) -> np.ndarray:
    """Return the number of the group of equal elements that each place of an order belongs to."""
    first = np.zeros((*close.shape[:-1], 1), int)
    return np.concatenate([first, np.cumsum(~close, axis=-1)], axis=-1)


def _of_member(sides: np.ndarray, ndim: int) -> np.ndarray:
    return sides.reshape(-1, *(1,) * (ndim - 1))


def _sources(g: np.ndarray, order: np.ndarray, close: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return for each element the place whose cotangent it gets: at ties, the extreme ones."""
    inverse = np.argsort(order, axis=-1)
    if not close.any():
        return inverse
    places, groups = np.arange(g.shape[-1]), _groups(close)
    by_size = np.lexsort((g, np.broadcast_to(groups, g.shape)))  # within each group
    new = np.diff(groups, axis=-1, prepend=-1) > 0
    first = np.maximum.accumulate(np.where(new, places, 0), axis=-1)
    ends = np.where(np.diff(groups, axis=-1, append=-1) != 0, places, len(places))
    last = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
    lowest = np.take_along_axis(by_size, first[None], -1)
    highest = np.take_along_axis(by_size, last[None], -1)
    side = _of_member(sides, g.ndim)
    source = np.where(side == 1, highest, np.where(side == 0, lowest, places))
    return np.take_along_axis(source, inverse, -1)


def argsort(x: Array, descending: bool = False) -> np.ndarray:
    """Return the index of the smallest element of the last axis, of the second smallest, and so on.

    `pick(y[..., None, :], argsort(x))` puts the elements of y in the order of those of x.

    Derivative: none, since the indices are integers. Equal elements are a kink: for the gradient,
    each order of them is correct. The result itself keeps their order, as a stable sort does.

    Rounding: none.

    Args:
        x: Numbers of shape (..., K).
        descending: Whether the largest element comes first.

    Returns:
        Integers of shape (..., K).
    """
    order, close, sides = _order(getval(x), descending)
    if not close.any():
        return order
    keys = _tie_breaks(sides, order.shape[-1])
    keys = keys.reshape(len(order), *(1,) * (order.ndim - 2), -1)
    keys = np.take_along_axis(np.broadcast_to(keys, order.shape), order, -1)
    within = np.lexsort((keys, np.broadcast_to(_groups(close), order.shape)))
    reordered = np.take_along_axis(order, within, -1)
    return np.where(_of_member(sides, order.ndim) < 0, order, reordered)


def _tie_breaks(sides: np.ndarray, size: int) -> np.ndarray:
    """Return for each member keys of the elements: at ties, the smaller key comes first."""
    keys = np.where(sides[:, None] == 1, -np.arange(size), np.arange(size))
    mixed = np.random.default_rng(size)
    for member in range(-SIDES, -2):
        keys[member] = mixed.permutation(size)
    return keys


def rank(x: Array, descending: bool = False) -> np.ndarray:
    """Return the place of each element of the last axis in the sorted order; 0 is the first.

    Derivative: none, since the ranks are integers. Equal elements have different ranks, in the
    order in which they stand; for the gradient, each order of them is correct, as in `argsort`.

    Rounding: none.

    Args:
        x: Numbers of shape (..., K).
        descending: Whether the largest element comes first.

    Returns:
        Integers of shape (..., K).
    """
    return np.argsort(argsort(x, descending), axis=-1, kind="stable")
