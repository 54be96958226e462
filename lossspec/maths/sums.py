"""Words that add up or multiply: totals, products of matrices, and norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from lossspec.maths.choices import absolute, largest
from lossspec.maths.elementwise import constant, sqrt
from lossspec.maths.ensemble import Array, current, error_of, kept, rounded
from lossspec.maths.primitives import (
    exactly,
    rounding_back,
    select,
    standing_for,
    sum_of,
    unbroadcast,
)
from lossspec.thresholds import SERIAL_TERMS


def total(x: Array, axis: int | Sequence[int] = -1) -> Array:
    """Return the sum over the last axis, or over other axes; 0 over no terms.

    The sum over a mask counts the elements where it holds. It is an array of integers, which have
    no derivative and no rounding.

    Derivative: 1 by each term.

    Rounding: the result, by max(1, log₂(K) / 2) unit roundoffs for K terms, since a sum rounds more
    than once. In float32 and float64 the terms may also be added one after the other.

    Args:
        x: Numbers of shape (..., K), or a mask.
        axis: The axis or axes to sum over. They are negative, and count from the last axis.

    Returns:
        Numbers of the shape of `x` without these axes.
    """
    axes, terms = _axes(x, axis)
    added = sum_of(x, axis=axes)
    return rounded(added, times=_roundings(terms)) if _real(x) else added


def mean(x: Array, axis: int | Sequence[int] = -1) -> Array:
    """Return the mean over the last axis, or over other axes; nan over no terms.

    The mean of a mask is the share of the elements where it holds.

    Derivative: 1 / K by each of K terms.

    Rounding: the sum as in `total`, and the quotient once.

    Args:
        x: Numbers of shape (..., K), or a mask.
        axis: The axis or axes to average over. They are negative, and count from the last axis.

    Returns:
        Numbers of the shape of `x` without these axes.
    """
    _, terms = _axes(x, axis)
    return rounded(total(x, axis) / terms)


def product(x: Array, axis: int | Sequence[int] = -1) -> Array:
    """Return the product over the last axis, or over other axes; 1 over no factors.

    Derivative: the product of the other factors, which is right where factors are 0 too.

    Rounding: the result and the derivatives, by max(1, (K - 1) / 2) unit roundoffs for K factors.
    An implementation may multiply in any order, and so overflow or underflow on the way. It may
    divide the product by a factor for the derivative.

    Args:
        x: Numbers of shape (..., K).
        axis: The axis or axes to multiply over. They are negative, and count from the last axis.

    Returns:
        Numbers of the shape of `x` without these axes.
    """
    axes, count = _axes(x, axis)
    shape = np.shape(getval(x))
    others = [i for i in range(len(shape)) if i - len(shape) not in axes]
    x = anp.transpose(x, (*others, *(len(shape) + one for one in axes)))
    x = anp.reshape(x, (*(shape[i] for i in others), count))
    if count < 2:
        return _multiplied(x)
    times = max(1.0, (count - 1) / 2)
    x = rounding_back(x, times)
    if exactly():
        return rounded(_multiplied(x), times=times, known_zero=True)
    return _multiplied_in_dtype(x)


@primitive
def _multiplied_in_dtype(x: Array) -> Array:
    """Multiply in the order that is most likely to overflow."""
    large, one = np.abs(x) >= 1, np.ones_like(x)
    return _multiplied(np.where(large, x, one)) * _multiplied(np.where(large, one, x))


def _derivative_in_dtype(product: Array, x: Array) -> Array:
    """Return the quotient of the product and each factor, as torch does where no factor is 0."""
    zero = np.any(getval(x) == 0, axis=-1, keepdims=True)
    quotients = product[..., None] / select(getval(x) != 0, x, np.ones_like(getval(x)))
    if not zero.any():
        return quotients
    count = np.shape(getval(x))[-1]
    others = [anp.concatenate([x[..., :i], x[..., i + 1 :]], axis=-1) for i in range(count)]
    return select(zero, anp.stack([_multiplied(each) for each in others], axis=-1), quotients)


defvjp(
    _multiplied_in_dtype,
    lambda ans, x: lambda g: g[..., None] * _derivative_in_dtype(ans, x),
)


def _multiplied(x: Array) -> Array:
    """Return the product over the last axis, of neighbours first."""
    while np.shape(getval(x))[-1] != 1:
        shape = np.shape(getval(x))
        if shape[-1] % 2 or not shape[-1]:
            x = anp.concatenate([x, np.ones_like(getval(x), shape=(*shape[:-1], 1))], axis=-1)
            continue
        x = x[..., ::2] * x[..., 1::2]
    return x[..., 0]


def _real(x: Array) -> bool:
    return getval(x).dtype.kind not in "biu"


def _axes(x: Array, axis: int | Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return axes as a tuple of negative numbers, and how many elements they hold together.

    Raises:
        ValueError: An axis is not a negative number, is given twice, or does not exist.
    """
    axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    shape = np.shape(getval(x))[1:]
    allowed = range(-len(shape), 0)
    if not axes or len(set(axes)) < len(axes) or any(one not in allowed for one in axes):
        has = f"from {allowed[0]} to -1" if shape else "and this array has none"
        raise ValueError(
            f"axis={axis!r} of an array of shape (..., {', '.join(map(str, shape))}): give negative"
            f" axes, {has}, each once; the loss of one element sees its own axes last"
        )
    return axes, math.prod(shape[one] for one in axes)


def cumulative_sum(x: Array) -> Array:
    """Return the sums over the first element of the last axis, the first two, and so on.

    Derivative: 1 by each term of the sum.

    Rounding: each partial sum and the errors that it passes on, as in a loop over the elements. The
    derivatives round in the same way.

    Args:
        x: Numbers of shape (..., K).

    Returns:
        Numbers of shape (..., K).
    """
    return _cumulative_sum(x)


@primitive
def _cumulative_sum(x: Array) -> Array:
    added = np.cumsum(x, axis=-1)
    # A loop makes an error of up to half a unit in each partial sum; the first one is exact.
    passed_on = np.cumsum(np.where(np.isfinite(added), np.abs(added), 0)[..., 1:], axis=-1) / 2
    added[..., 1:] = added[..., 1:] + error_of(passed_on, apart=True)
    return added


defvjp(_cumulative_sum, lambda ans, x: lambda g: _cumulative_sum(g[..., ::-1])[..., ::-1])


#: The unit roundoff of float32. In narrower dtypes, implementations add in float32.
_FLOAT32_UNIT = 2.0**-24


def _roundings(terms: int) -> float:
    """Return by how many unit roundoffs to round a sum of so many terms.

    In float32 and float64 the error of a serial sum is at most `terms` unit roundoffs, in any
    order, so `SLACK` does not multiply it.
    """
    members, pairwise = current.ensemble, max(1.0, np.log2(max(terms, 1)) / 2)
    if members is None or members.unit > _FLOAT32_UNIT:
        return pairwise
    return max(pairwise, min(terms, SERIAL_TERMS) / members.slack)


def matvec(matrix: Array, x: Array) -> Array:
    """Return the product of a matrix with a vector.

    Derivative: the products of the cotangent with the vector and with the transposed matrix.

    Rounding: each element of the result apart, as in `total`.

    Args:
        matrix: Numbers of shape (..., M, K).
        x: Numbers of shape (..., K).

    Returns:
        Numbers of shape (..., M).
    """
    terms = matrix * x[..., None, :]
    return rounded(sum_of(terms), times=_roundings(np.shape(getval(terms))[-1]), apart=True)


def matmul(x: Array, y: Array) -> Array:
    """Return the product of two matrices, of which leading axes broadcast; `x @ y` is the same.

    Derivative: the products of the cotangent with the transposed matrices.

    Rounding: each element of the result and of the derivatives apart, by as many unit roundoffs as
    in `total`, of the sum of the absolute products that it adds up. Products that cancel therefore
    leave the error that they leave in an implementation.

    Args:
        x: Numbers of shape (..., M, K).
        y: Numbers of shape (..., K, N).

    Returns:
        Numbers of shape (..., M, N).
    """
    return _matmul(x, y)


@primitive
def _matmul(x: Array, y: Array) -> Array:
    size = np.matmul(np.abs(x), np.abs(y))
    error = error_of(size, times=_roundings(x.shape[-1]), apart=True)
    return (np.matmul(x, y) + error).astype(np.result_type(x, y))  # of bfloat16 it is float32


defvjp(
    _matmul,
    lambda ans, x, y: lambda g: unbroadcast(_matmul(g, anp.swapaxes(y, -1, -2)), np.shape(x)),
    lambda ans, x, y: lambda g: unbroadcast(_matmul(anp.swapaxes(x, -1, -2), g), np.shape(y)),
)


def norm(x: Array, p: float) -> Array:
    """Return the p-norm ‖x‖ₚ over the last axis.

    Derivative: that of the root of the sum of |x|ᵖ. At x = 0 there is a kink: any value in [-1, 1]
    by each element is correct. For p = 1 and p = inf the kinks are those of `absolute` and
    `largest`. Second derivatives of the 2-norm are not judged if an element is 0: autograd gives
    that of |x|² as 0 there.

    Rounding: the sum of the powers as in `total`, and the root once.

    Args:
        x: Numbers of shape (..., K). One infinite element makes the norm infinite.
        p: The degree, 1 or more; inf gives the maximum norm.

    Returns:
        Numbers of shape (...).
    """
    if p == np.inf:
        return largest(absolute(x))
    if p == 1:
        return total(absolute(x))
    raw = getval(x)
    infinite = np.isinf(raw).any(axis=-1)
    if exactly() and infinite.any():  # the infinite elements alone have a derivative
        finite = select(infinite[..., None], np.zeros_like(raw), x)
        return select(infinite, largest(absolute(x)), norm(finite, p))
    size = standing_for(x, np.abs(raw), np.sign(raw))  # a power of |x| has no kink
    power = total(x * x if p == 2 else size**p)
    # The root has no derivative at 0. Take the 1-norm there, which is 0 too and has a kink.
    zero = ~np.any(raw, axis=-1)
    if current.ensemble is not None:
        zero = kept(zero)
        zero[2:] |= np.all(current.ensemble.either(raw), axis=-1)
        sides = (raw[0] == 0).any(axis=-1) if p == 2 else False
        current.ensemble.tips.append(np.asarray(zero.any(axis=0) | sides))
    power = select(zero, anp.ones_like(power), power)
    root = sqrt(power) if p == 2 else rounded(power ** constant(1 / p, like=power))
    return select(zero, total(absolute(x)), root)


def pairwise_distances(x: Array, y: Array | None = None, p: float = 2.0) -> Array:
    """Return the distances of all pairs of two sets of rows, or of all pairs of one set.

    The budget is that of subtracting the rows first. The expansion ‖x‖² + ‖y‖² - 2 x·y loses the
    digits of small distances; a spec that allows it declares it as an equivalent form.

    Derivative: that of `norm`. The distance of a row from itself is 0 with the derivative 0; second
    derivatives are not judged there. If two rows are equal there is a kink: any value in [-1, 1] by
    each element is correct.

    Rounding: each difference, and the distance as in `norm`. The derivative by a row rounds the sum
    over its pairs.

    Args:
        x: Numbers of shape (..., N, D).
        y: Numbers of shape (..., M, D). Without it, the rows of `x`.
        p: The degree of the norm, 1 or more; inf gives the maximum norm.

    Returns:
        Numbers of shape (..., N, M).
    """
    apart = rounded(_differences(x, x if y is None else y), underflows=False, apart=True)
    if y is not None:
        return norm(apart, p)
    own = np.eye(np.shape(getval(x))[-2], dtype=bool)
    if current.ensemble is not None:  # an implementation may differentiate these norms of 0
        current.ensemble.tips.append(np.broadcast_to(own, np.shape(getval(apart))[1:-1]))
    distances = norm(select(own[..., None], np.ones_like(getval(apart)), apart), p)
    return select(own, np.zeros_like(getval(distances)), distances)


@primitive
def _differences(x: Array, y: Array) -> Array:
    """Return the difference of each row of `x` from each row of `y`."""
    return x[..., :, None, :] - y[..., None, :, :]


def _added_pairs(g: Array, axis: int) -> Array:
    """Return cotangents of pairs added over one axis, rounded by the size of the terms."""
    size = sum_of(np.abs(getval(g)), axis=axis)
    return sum_of(g, axis=axis) + error_of(size, _roundings(getval(g).shape[axis]), apart=True)


defvjp(
    _differences,
    lambda ans, x, y: lambda g: unbroadcast(_added_pairs(g, -2), np.shape(x)),
    lambda ans, x, y: lambda g: unbroadcast(_added_pairs(-g, -3), np.shape(y)),
)
