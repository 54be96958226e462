"""Words about probabilities: sigmoids and softmaxes, and their logarithms without overflow."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from lossspec.maths.elementwise import array_like
from lossspec.maths.ensemble import HALF, Array, current, error_of, rounded
from lossspec.maths.primitives import accept_either, exactly, select, standing_for, sum_of
from lossspec.thresholds import SOFTPLUS_LINEAR


def sigmoid(x: Array) -> Array:
    """Return σ(x) = 1 / (1 + e⁻ˣ), without overflow, element by element.

    Derivative: σ(x)·(1 - σ(x)), where 1 - σ(x) has the rounding error of σ(x). It is 0 at ±inf.

    Rounding: the result, once.
    """
    return rounded(_sigmoid(x))


@primitive
def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    one = np.ones_like(x)
    return np.where(x >= 0, one / (one + small), small / (one + small))


def _sigmoid_derivative(ans: Array, x: Array) -> Array:
    # σ(-x) is the exact 1 - σ(x); the rounding error of σ(x) is subtracted from it.
    return ans * (_sigmoid(-x) - (rounded(ans) - ans))


defvjp(_sigmoid, lambda ans, x: lambda g: g * _sigmoid_derivative(ans, x))


def softplus(x: Array) -> Array:
    """Return log(1 + eˣ), without overflow, element by element.

    For x > `SOFTPLUS_LINEAR` (20) the budget also accepts x itself, as torch documents for its
    softplus.

    Derivative: σ(x), with the error of computing it as exp(x - softplus(x)).

    Rounding: the result, once.
    """
    return rounded(accept_either(_softplus(x), x, getval(x) > SOFTPLUS_LINEAR)) + _by_logarithm(x)


@primitive
def _softplus(x: Array) -> Array:
    return np.maximum(x, np.zeros_like(x)) + np.log1p(np.exp(-np.abs(x)))


defvjp(_softplus, lambda ans, x: lambda g: g * sigmoid(x))


def _by_logarithm(x: Array) -> Array:
    """Return 0 with the derivative error of computing σ(x) as exp(x - softplus(x))."""
    raw = getval(x)
    if current.ensemble is None:
        return np.zeros_like(raw)
    # For larger x the dtype rounds softplus(x) to x exactly.
    near = raw < -np.log(current.ensemble.unit)
    scale = np.where(near, _softplus(raw) * _sigmoid(raw), np.zeros_like(raw))
    return standing_for(x, np.zeros_like(raw), rounded(scale) - scale)


def minus_log_sigmoid(x: Array) -> tuple[Array, Array]:
    """Return (-log σ(x), -log(1 - σ(x))), without overflow.

    For |x| > `SOFTPLUS_LINEAR` (20) the budget also accepts the asymptotes |x| and 0, as torch
    documents for its softplus.

    Derivative: -σ(-x) and σ(x).

    Rounding: the first result once, and the second as x plus the first.

    Args:
        x: Logits of any shape.

    Returns:
        Two arrays of the shape of `x`.
    """
    raw = getval(x)
    infinite = np.isinf(raw)
    if exactly() and infinite.any():  # x plus inf is nan for x = -inf
        finite = minus_log_sigmoid(select(infinite, np.zeros_like(raw), x))
        limits = (softplus(-x), softplus(x))
        return select(infinite, limits[0], finite[0]), select(infinite, limits[1], finite[1])
    large = np.abs(raw) > SOFTPLUS_LINEAR
    minus_log_p = rounded(_softplus(-x))
    # An implementation may use the asymptote for one of the two only.
    minus_log_q = rounded(accept_either(x + minus_log_p, x * (raw > 0), large, some=True))
    minus_log_p = accept_either(minus_log_p, -x * (raw < 0), large)
    return minus_log_p + _by_logarithm(-x), minus_log_q + _by_logarithm(x)


@primitive
def log_sum_exp(x: Array) -> Array:
    """Return log Σ eˣ over the last axis, without overflow.

    A term of -inf adds nothing.

    Derivative: the share of each term in the sum; 0 by -inf.

    Rounding: the sum once, and the result once more.

    Args:
        x: Numbers of shape (..., K). With K = 0 the result is -inf.

    Returns:
        Numbers of shape (...).
    """
    if not x.shape[-1]:
        return np.full_like(x, -np.inf, shape=x.shape[:-1])
    top = np.max(x, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, np.zeros_like(top))
    total = sum_of(np.exp(x - top))
    # The sum is 0 or at least 1, so its relative rounding is an absolute error of the logarithm.
    log_total = np.log(np.where(total > 0, rounded(total), total))
    return rounded(top[..., 0] + log_total, steady=True)


def _shares(ans: Array, x: Array) -> Array:
    """Return each term's share of Σ eˣ, and 0 where all terms are -inf."""
    raw = getval(x)
    # The forward pass keeps a rounded logarithm, whose absolute error grows with its size.
    apart = x - rounded(ans, steady=True)[..., None]
    if exactly() and np.isposinf(raw).any():
        apart = select(_alone(raw), np.zeros_like(raw), apart)
    return rounded(anp.exp(select(raw > -np.inf, apart, np.full_like(raw, -np.inf))))


defvjp(log_sum_exp, lambda ans, x: lambda g: g[..., None] * _shares(ans, x))


def log_softmax(x: Array) -> Array:
    """Return the logarithm of the softmax along the last axis.

    The largest element is subtracted first, so the exponentials cannot overflow. An element of
    -inf gives -inf. With a single inf, its own element gives 0 and the others -inf; with several
    the result is nan.

    Derivative: g - softmax(x)·Σ g for a cotangent g.

    Rounding: the sum of the exponentials once, and the result once more. The derivative computes
    the softmax from the rounded result.

    Args:
        x: Logits of shape (..., C).

    Returns:
        Log-probabilities of shape (..., C).
    """
    return rounded(_log_softmax(x))


@primitive
def _log_softmax(x: Array) -> Array:
    if x.shape[-1] == 0:
        return x
    top = np.max(x, axis=-1, keepdims=True)
    z = x - np.where(top > -np.inf, top, np.zeros_like(top))
    if exactly():
        z = np.where(_alone(x), np.zeros_like(z), z)  # inf - inf, where x is the only inf
    # The sum is at least 1, so its relative rounding is an absolute error of the logarithm.
    return z - np.log(rounded(sum_of(np.exp(z), keepdims=True)))


defvjp(
    _log_softmax,
    lambda ans, x: lambda g: g - _softmax(x) * _foreknown_sum(g),
)


def _alone(x: np.ndarray) -> np.ndarray:
    """Return where a number is the only inf along the last axis."""
    infinite = x == np.inf
    return np.asarray(infinite & (infinite.sum(axis=-1, keepdims=True) == 1))


def _softmax(x: Array) -> Array:
    # An implementation may compute the softmax from the rounded logarithm; a large logarithm has a
    # large absolute error.
    return rounded(anp.exp(rounded(_log_softmax(x), apart=True)), apart=True)


def _foreknown_sum(g: Array) -> Array:
    """Return Σ g over the last axis; half of the rounding members use the exact sum of member 0.

    A gradient derived by hand knows this sum without adding up rounded cotangents.
    """
    added = sum_of(g, keepdims=True)
    if current.ensemble is None:
        return added
    members = np.zeros(current.ensemble.size, bool)
    members[current.ensemble.rounding] = HALF
    return select(current.ensemble.column(members, getval(added).ndim), added[:1], added)


def softmax(x: Array) -> Array:
    """Return eˣ / Σ eˣ along the last axis, without overflow.

    An element of -inf gives 0. With a single inf, its own element gives 1 and the others 0; with
    several, or with -inf only, the result is nan.

    Derivative: p·(g - Σ g·p) for a cotangent g and probabilities p. It is 0 by an infinite element.

    Rounding: the differences from the largest element, the sum of the exponentials and the result,
    each element apart. The derivative rounds p, the sum and the difference.

    Args:
        x: Logits of shape (..., C).

    Returns:
        Probabilities of shape (..., C).
    """
    return rounded(_probabilities(x), apart=True, known_zero=True)


@primitive
def _probabilities(x: Array) -> Array:
    if x.shape[-1] == 0:
        return x
    top = np.max(x, axis=-1, keepdims=True)
    z = x - np.where(top > -np.inf, top, np.zeros_like(top))
    if exactly():
        z = np.where(_alone(x), np.zeros_like(z), z)  # inf - inf, where x is the only inf
    powers = np.exp(z + error_of(z, apart=True))
    return powers / rounded(sum_of(powers, keepdims=True), underflows=False)


def _softmax_cotangent(p: Array, g: Array) -> Array:
    p = p + error_of(p, apart=True)
    terms = g * p
    added = sum_of(terms, keepdims=True)
    added = added + error_of(sum_of(np.abs(getval(terms)), keepdims=True))
    return p * rounded(g - added, underflows=False, apart=True)


defvjp(_probabilities, lambda ans, x: lambda g: _softmax_cotangent(ans, g))


def logaddexp(x: Array, y: Array) -> Array:
    """Return log(eˣ + eʸ), element by element, without overflow; `log_sum_exp` of two.

    An argument of -inf adds nothing.

    Derivative: the share of each argument in the sum, σ(x - y) and σ(y - x). By -inf it is 0.

    Rounding: the sum, and the result once more. The derivative may underflow where exp(x - y) or
    exp(y - x) overflows.

    Args:
        x: Numbers of any shape.
        y: Numbers of a shape that broadcasts with `x`.
    """
    x, y = array_like(x, y), array_like(y, x)
    both = np.ones(np.broadcast_shapes(np.shape(getval(x)), np.shape(getval(y))), bool)
    pair = [select(both, x, getval(y)), select(both, y, getval(x))]
    if exactly():
        return log_sum_exp(anp.concatenate([one[..., None] for one in pair], axis=-1))
    # In a dtype, exp(x - y) may overflow in the derivative 1 / (1 + exp(x - y)), as in torch.
    a, b = (getval(one) for one in pair)
    value = log_sum_exp(np.stack([a, b], axis=-1))
    by_a, by_b = 1 / (1 + np.exp(b - a)), 1 / (1 + np.exp(a - b))
    return standing_for(pair[0], value, by_a) + standing_for(pair[1], np.zeros_like(value), by_b)
