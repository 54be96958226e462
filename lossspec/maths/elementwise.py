"""Words that work element by element and are smooth inside their domain."""

from __future__ import annotations

import autograd.numpy as anp
import ml_dtypes
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from lossspec.maths.ensemble import Array, rounded
from lossspec.maths.primitives import select


def constant(value: float, like: Array) -> Array:
    """Return a parameter as an array.

    It is rounded unless bfloat16, and so every dtype, represents the value exactly.

    Args:
        value: The value of the parameter.
        like: An array whose shape and dtype the result takes.
    """
    filled = anp.full_like(getval(like), value)
    return filled if float(ml_dtypes.bfloat16(value)) == value else rounded(filled)


def exp(x: Array) -> Array:
    """Return eˣ, rounded, element by element; inf where it overflows."""
    return rounded(anp.exp(x))


def log(x: Array) -> Array:
    """Return the natural logarithm, rounded, element by element; -inf at 0, nan below."""
    return rounded(anp.log(x))


def sqrt(x: Array) -> Array:
    """Return the square root, rounded, element by element; its derivative is inf at 0."""
    return rounded(anp.sqrt(x))


def times(x: Array, y: Array) -> Array:
    """Return x·y, with 0 times anything defined as 0.

    A probability of 0 times a log-probability of -inf is 0, for example. The product is not
    rounded.

    Args:
        x: Numbers of any shape.
        y: Numbers of a shape that broadcasts with `x`.
    """
    zero = (getval(x) == 0) | (getval(y) == 0)
    if not np.any(zero & ~(np.isfinite(getval(x)) & np.isfinite(getval(y)))):
        return x * y
    safe_x = select(zero & ~np.isfinite(getval(x)), anp.zeros_like(getval(x)), x)
    safe_y = select(zero & ~np.isfinite(getval(y)), anp.zeros_like(getval(y)), y)
    return safe_x * safe_y


def x_log_x(x: Array) -> Array:
    """Return x·log(x), and 0 at 0.

    Derivative: log(x) + 1, with the logarithm rounded; -inf at 0. The result is rounded.

    Args:
        x: Numbers of 0 or more, of any shape.
    """
    return rounded(_x_log_x(x))


@primitive
def _x_log_x(x: Array) -> Array:
    zero = x == 0
    return x * np.log(np.where(zero, np.ones_like(x), x))


defvjp(_x_log_x, lambda ans, x: lambda g: g * (rounded(anp.log(x)) + 1))
