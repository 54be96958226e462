"""What the words are made of: a choice without nan in its derivative, and a given derivative."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from lossspec.maths.ensemble import Array, current


def exactly() -> bool:
    """Return whether this is the exact evaluation, and not the plain formula in a dtype."""
    return current.ensemble is not None


def accept_either(x: Array, y: Array, condition: np.ndarray, some: bool = False) -> Array:
    """Return `x`, and widen the budget where `condition` holds so that `y` is accepted too.

    Args:
        x: The exact value.
        y: Another value, close to `x`.
        condition: A mask.
        some: Whether to move only half of the rounding members.
    """
    if current.ensemble is None:
        return x
    doubt = current.ensemble.doubt(x.ndim, some)
    finite = np.isfinite(getval(x))  # between two infinities there is no difference
    return x + select(condition & finite, y - x, anp.zeros_like(getval(x))) * doubt


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return a cotangent summed over the axes that were broadcast from `shape`."""
    while anp.ndim(g) > len(shape):
        g = anp.sum(g, axis=0)
    for axis, size in enumerate(shape):
        if size == 1 and anp.shape(g)[axis] != 1:
            g = anp.sum(g, axis=axis, keepdims=True)
    return g


@primitive
def select(condition: np.ndarray, yes: Array, no: Array) -> Array:
    """Return `yes` where `condition` holds, else `no`; the derivative follows the choice."""
    return np.where(condition, yes, no)


# Select the cotangent: multiplying it by 0 turns an infinite one into nan in the other branch.
defvjp(
    select,
    None,
    lambda ans, c, yes, no: lambda g: unbroadcast(select(c, g, anp.zeros_like(g)), np.shape(yes)),
    lambda ans, c, yes, no: lambda g: unbroadcast(select(c, anp.zeros_like(g), g), np.shape(no)),
)


@primitive
def standing_for(x: Array, value: np.ndarray, derivative: np.ndarray) -> Array:
    """Return `value`, with the derivative `derivative` by `x`; both have the shape of `x`."""
    return value


defvjp(standing_for, lambda ans, x, value, derivative: lambda g: g * derivative, None, None)
