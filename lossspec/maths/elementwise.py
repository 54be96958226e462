"""Words that work element by element and are smooth inside their domain."""

from __future__ import annotations

import autograd.numpy as anp
import ml_dtypes
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval, isbox

from lossspec.dtypes import Extended, as_extended
from lossspec.maths.ensemble import Array, current, error_of, rounded
from lossspec.maths.primitives import select


def constant(value: float, like: Array) -> Array:
    """Return a parameter as an array. A float that meets a number becomes one by itself.

    Derivative: 0.

    Rounding: once, unless bfloat16, and so every dtype, represents the value exactly.

    Args:
        value: The value of the parameter.
        like: An array whose shape and dtype the result takes.
    """
    filled = anp.full_like(getval(like), value)
    return filled if float(ml_dtypes.bfloat16(value)) == value else rounded(filled)


@primitive
def _accumulated(x: Array) -> Array:
    return x + 0


defvjp(
    _accumulated,
    lambda ans, x: lambda g: rounded(_accumulated(g), known_zero=True, apart=True),
)


def accumulated(x: Array) -> Array:
    """Return x, of which backward adds up the derivatives of several uses.

    If these nearly cancel, as q/β and -1 do in q²/2β + (r - q), the rounding of their sum matters.

    Derivative: 1.

    Rounding: the sum of the derivatives, once.
    """
    return _accumulated(x)


@primitive
def _exp(x: Array) -> Array:
    return np.exp(x)


# The derivative is a result of its own: a rounding that it shared with the value could cancel.
defvjp(_exp, lambda ans, x: lambda g: g * rounded(ans))


def exp(x: Array) -> Array:
    """Return eˣ, element by element; inf where it overflows.

    Derivative: eˣ, rounded. It is 0 at -inf.

    Rounding: the result, once.
    """
    return rounded(_exp(x))


def log(x: Array) -> Array:
    """Return the natural logarithm, element by element; -inf at 0, nan below.

    Derivative: 1/x. It is inf at 0.

    Rounding: the result, once.
    """
    return rounded(anp.log(x))


def sqrt(x: Array) -> Array:
    """Return the square root, element by element; nan below 0.

    Derivative: 1 / (2√x). It is inf at 0.

    Rounding: the result, once.
    """
    return rounded(anp.sqrt(x))


def times(x: Array, y: Array) -> Array:
    """Return x·y, with 0 times anything defined as 0.

    A probability of 0 times a log-probability of -inf is 0, for example.

    Derivative: that of a product. An infinite factor of 0 has the derivative 0, and gives 0.

    Rounding: none.

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

    Derivative: log(x) + 1. It is -inf at 0.

    Rounding: the result once, and the logarithm of the derivative once.

    Args:
        x: Numbers of 0 or more, of any shape.
    """
    return rounded(_x_log_x(x))


@primitive
def _x_log_x(x: Array) -> Array:
    zero = x == 0
    return x * np.log(np.where(zero, np.ones_like(x), x))


defvjp(_x_log_x, lambda ans, x: lambda g: g * (rounded(anp.log(x)) + 1))


def array_like(x: Array, like: Array) -> Array:
    """Return an array as it is, and a number as a `constant` in the shape of `like`."""
    return x if isbox(x) or np.ndim(x) else constant(float(x), like)


def log1p(x: Array) -> Array:
    """Return log(1 + x), element by element, to full precision for small x; nan below -1.

    Derivative: 1 / (1 + x). It is inf at -1, where the result is -inf.

    Rounding: the result, once.
    """
    return rounded(anp.log1p(x))


def expm1(x: Array) -> Array:
    """Return eˣ - 1, element by element, to full precision for small x; inf where it overflows.

    Derivative: eˣ, with the absolute error of computing it as 1 plus the rounded result.

    Rounding: the result, once.
    """
    return rounded(_expm1(x))


@primitive
def _expm1(x: Array) -> Array:
    return np.expm1(x)


defvjp(_expm1, lambda ans, x: lambda g: g * (anp.exp(x) + error_of(ans)))


def tanh(x: Array) -> Array:
    """Return the hyperbolic tangent, element by element.

    Derivative: 1 - tanh²(x), with the absolute error of computing it from the rounded result. It is
    0 at ±inf, where the result is ±1.

    Rounding: the result, once.
    """
    return rounded(_tanh(x))


@primitive
def _tanh(x: Array) -> Array:
    return np.tanh(x)


@primitive
def _tanh_derivative(x: Array) -> Array:
    """Return 1 - tanh²(x) without cancellation."""
    small = np.exp(-2 * np.abs(x))
    return 4 * small / (1 + small) ** 2


defvjp(
    _tanh,
    lambda ans, x: lambda g: g * (_tanh_derivative(x) - 2 * getval(ans) * error_of(ans)),
)
defvjp(_tanh_derivative, lambda ans, x: lambda g: g * (-2 * _tanh(x) * ans))


def erf(x: Array) -> Array:
    """Return the error function (2 / √π) ∫₀ˣ exp(-t²) dt, element by element.

    Derivative: (2 / √π) exp(-x²), with its square and its result rounded. It is 0 at ±inf, where
    the result is ±1.

    Rounding: the result, once.
    """
    return rounded(_erf(x))


#: 2 / √π, and a number beyond which even a quadruple-precision erf is 1.
_TWO_OVER_ROOT_PI = 2 / np.sqrt(np.arccos(Extended(-1)))
_ERF_ONE = 9.0


@primitive
def _erf(x: Array) -> Array:
    # All terms of this series are positive: erf(x) = (2 / √π) exp(-x²) Σ 2ⁿ x²ⁿ⁺¹ / (2n + 1)!!
    size = np.minimum(np.abs(as_extended(x)), _ERF_ONE)
    added = term = size
    n = 0
    while np.any(term > np.finfo(Extended).eps / 8 * added):
        n += 1
        term = term * (2 * size * size / (2 * n + 1))
        added = added + term
    head = size.astype(np.float32).astype(Extended)  # short, so that its square is exact
    decay = np.exp(-head * head) * np.exp(-(size - head) * (size + head))
    value = np.minimum(_TWO_OVER_ROOT_PI * decay * added, 1)
    return np.copysign(value, as_extended(x)).astype(x.dtype)


def _erf_derivative(x: Array) -> Array:
    factor = getval(x).dtype.type(_TWO_OVER_ROOT_PI)
    return rounded(factor * anp.exp(-rounded(x * x, underflows=False)))


defvjp(_erf, lambda ans, x: lambda g: g * _erf_derivative(x))


def acos(x: Array) -> Array:
    """Return the angle in [0, π] whose cosine is x, in radians, element by element.

    The result is nan outside [-1, 1]. A cosine that rounding takes out of this range needs
    `minimum` and `maximum`, or `clamped`, first.

    Derivative: -1 / √(1 - x²), with the error of rounding x². It is -inf at -1 and 1. It is not
    judged where rounding may take x to -1 or 1.

    Rounding: the result, once.
    """
    return rounded(_acos(x))


@primitive
def _acos(x: Array) -> Array:
    return np.arccos(x)


def _acos_derivative(x: Array) -> Array:
    if current.ensemble is None:
        return -1 / anp.sqrt(1 - x * x)
    apart = (1 - x) * (1 + x)
    raw = getval(apart)
    end = current.ensemble.either(raw) | (raw == 0)
    error = error_of(getval(x) ** 2) / np.where(end, np.ones_like(raw), 2 * raw)
    derivative = -(1 + error) / anp.sqrt(select(end, np.ones_like(raw), apart))
    return select(end, np.full_like(raw, -np.inf), derivative)


defvjp(_acos, lambda ans, x: lambda g: g * _acos_derivative(x))
