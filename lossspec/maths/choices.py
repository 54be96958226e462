"""Words that choose between numbers: masks, absolute values, bounds and maxima."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval, isbox

from lossspec.maths.elementwise import constant, log
from lossspec.maths.ensemble import Array, compared, current, kept, kinked
from lossspec.maths.primitives import select, standing_for
from lossspec.thresholds import ANY_FINITE_SLOPE


def where(condition: Array, yes: Array, no: Array) -> Array:
    """Return `yes` where `condition` holds and `no` elsewhere.

    The derivative flows only into the branch that is taken. Each perturbed member keeps the branch
    of member 0; there is no rounding.

    Args:
        condition: A mask.
        yes: Numbers, of a shape that broadcasts with `condition`.
        no: Numbers, of a shape that broadcasts with `condition`.
    """
    condition = kept(np.asarray(getval(condition)))
    like = yes if np.ndim(getval(yes)) else no
    yes, no = _array(yes, like), _array(no, like)
    compared(np.isnan(getval(yes)) != np.isnan(getval(no)))
    return select(condition, yes, no)


def _array(x: Array, like: Array) -> Array:
    """Return an array as it is, and a number as a `constant` in the shape of `like`."""
    return x if isbox(x) or np.ndim(x) else constant(float(x), like)


def absolute(x: Array) -> Array:
    """Return |x|, element by element.

    Derivative: the sign of x. At the kink 0, any value in [-1, 1] is correct. There is no rounding.
    """
    raw = getval(x)
    sign = np.sign(raw)
    # The value is |x| whichever side a member takes, since a root or a power may follow.
    return standing_for(x, raw * kept(sign), kinked(raw, sign, -1.0, 1.0))


def positive_part(x: Array) -> Array:
    """Return max(x, 0), element by element.

    Derivative: 1 above 0 and 0 below; at the kink 0, any value in [0, 1] is correct. nan stays nan.
    There is no rounding.
    """
    raw = getval(x)
    compared(np.isnan(raw))
    above = raw > 0
    slope = kinked(raw, above.astype(raw.dtype), 0.0, 1.0)
    # nan > 0 is false, but nan must not become 0.
    return select((slope != 0) | np.isnan(raw), x, anp.zeros_like(raw))


def minimum(x: Array, y: Array) -> Array:
    """Return the smaller of two arrays, element by element.

    Derivative: 1 for the smaller one. Equal elements are a kink: any split of the derivative
    between them is correct. If either element is nan, so is the result. There is no rounding.
    """
    x, y = _array(x, y), _array(y, x)
    return select(_first(_lead(getval(y), getval(x))) | np.isnan(getval(x)), x, y)


def maximum(x: Array, y: Array) -> Array:
    """Return the larger of two arrays, element by element.

    Derivative: 1 for the larger one. Equal elements are a kink: any split of the derivative
    between them is correct. If either element is nan, so is the result. There is no rounding.
    """
    x, y = _array(x, y), _array(y, x)
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

    Derivative: 1 for the largest element. If several are the largest there is a kink: any of them
    may have the derivative. There is no rounding.

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
    return top[..., 0] + anp.sum(standing_for(x, np.zeros_like(raw), chosen), axis=-1)


def clamped(x: Array, lowest: Array) -> Array:
    """Return max(x, lowest) with the derivative 1 by `x`, even where `lowest` is taken.

    The derivative by `lowest` is 0. There is no rounding.

    Args:
        x: Numbers of any shape.
        lowest: A lower bound, of the shape of `x`.
    """
    raw, floor = getval(x), getval(_array(lowest, x))
    return standing_for(x, np.where(kept(raw < floor), floor, raw), np.ones_like(raw))


def clamped_log(x: Array, lowest: float, held: Array) -> Array:
    """Return max(log(x), lowest).

    Derivative: 1/x, with two exceptions. If `lowest` is taken, any finite derivative of 0 or more
    is correct. If `held` is true, any derivative from 0 to 1/x is correct. The result is rounded.

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

    The derivative is nan where the formula is undefined, so the gradient is not judged there. It is
    1 elsewhere. There is no rounding.

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
