"""Words that pick, join and repeat numbers without computing new ones."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from lossspec.maths.ensemble import Array
from lossspec.maths.primitives import select, sum_of
from lossspec.maths.sums import total


def pick(x: Array, index: np.ndarray) -> Array:
    """Return `x[..., index]`: one element of the last axis for each index.

    Derivative: 1 by that element and 0 by the others.

    Rounding: none.

    Args:
        x: Numbers of shape (..., C).
        index: Integers, of a shape that broadcasts with (...). An index outside [0, C) gives 0.

    Returns:
        Numbers of the broadcast shape.
    """
    classes = np.arange(getval(x).shape[-1])
    chosen = np.asarray(index)[..., None] == classes
    return sum_of(select(chosen, x, anp.zeros_like(getval(x))), axis=-1)


def joined(*parts: Array) -> Array:
    """Return arrays joined along the last axis.

    Derivative: that of the element, in its old place.

    Rounding: none.

    Args:
        *parts: Arrays that have the same shape but for the last axis.
    """
    return anp.concatenate(parts, axis=-1)


def one_hot(index: np.ndarray, classes: int, like: Array) -> np.ndarray:
    """Return the one-hot encoding of class indices.

    Derivative: none, since the indices are integers.

    Rounding: none.

    Args:
        index: Integers of shape (...), in [0, classes).
        classes: The number of classes C.
        like: An array whose dtype the result takes.

    Returns:
        Numbers of shape (..., C).
    """
    return (np.asarray(index)[..., None] == np.arange(classes)).astype(getval(like).dtype)


@primitive
def repeated(x: Array, count: int) -> Array:
    """Return `x` repeated along a new last axis.

    Derivative: the sum of the cotangents of the copies.

    Rounding: none of the result; the derivative as in `total`.

    Args:
        x: Numbers of shape (...).
        count: How many copies to make.

    Returns:
        Numbers of shape (..., count).
    """
    return np.broadcast_to(x[..., None], (*x.shape, count))


defvjp(repeated, lambda ans, x, count: total, None)


def transposed(x: Array) -> Array:
    """Return a matrix with its rows as columns: the last two axes are swapped.

    Derivative: that of the element, in its old place.

    Rounding: none.

    Args:
        x: Numbers of shape (..., M, N).

    Returns:
        Numbers of shape (..., N, M).
    """
    return anp.swapaxes(x, -1, -2)
