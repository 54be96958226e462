"""Functions that the words are made of: choices and powers without nan, given derivatives."""

from __future__ import annotations

import autograd.numpy as anp
import ml_dtypes
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from lossspec.maths.ensemble import Array, current, rounded


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


def sum_of(x: Array, axis: int | tuple[int, ...] = -1, keepdims: bool = False) -> Array:
    """Return the sum over axes, which the plain formula adds in float32 if it runs in bfloat16.

    torch adds so. numpy rounds each partial sum to bfloat16, which loses all digits of a long sum.
    """
    if getval(x).dtype != ml_dtypes.bfloat16:
        return anp.sum(x, axis=axis, keepdims=keepdims)
    return _added_in_float32(x, axis, keepdims)


@primitive
def _added_in_float32(x: Array, axis: int | tuple[int, ...], keepdims: bool) -> Array:
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=np.float32).astype(x.dtype)


def _to_each_term(g: Array, shape: tuple[int, ...], axis: int | tuple[int, ...]) -> Array:
    """Return the cotangent of a sum for each of its terms."""
    axes = {one % len(shape) for one in ((axis,) if isinstance(axis, int) else axis)}
    kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
    return anp.reshape(g, kept) + np.zeros(shape, getval(g).dtype)


defvjp(
    _added_in_float32,
    lambda ans, x, axis, keepdims: lambda g: _to_each_term(g, np.shape(x), axis),
)


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return a cotangent summed over the axes that were broadcast from `shape`."""
    while anp.ndim(g) > len(shape):
        g = sum_of(g, axis=0)
    for axis, size in enumerate(shape):
        if size == 1 and anp.shape(g)[axis] != 1:
            g = sum_of(g, axis=axis, keepdims=True)
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
def divided(x: Array, y: Array) -> Array:
    """Return x / y; the derivative by `y` divides twice, as that of torch does."""
    return x / y


# The square of a small divisor may underflow, and the quotient of a quotient may overflow.
defvjp(
    divided,
    lambda ans, x, y: lambda g: unbroadcast(g / y, np.shape(x)),
    lambda ans, x, y: lambda g: unbroadcast(-g * (ans / y), np.shape(y)),
)


@primitive
def standing_for(x: Array, value: np.ndarray, derivative: np.ndarray) -> Array:
    """Return `value`, with the derivative `derivative` by `x`; both have the shape of `x`."""
    return value


defvjp(standing_for, lambda ans, x, value, derivative: lambda g: g * derivative, None, None)


@primitive
def rounding_back(x: Array, times: float) -> Array:
    """Return `x`, and round its cotangent by `times` unit roundoffs, each element apart."""
    return x


defvjp(
    rounding_back,
    lambda ans, x, times: lambda g: rounded(g, times=times, apart=True, known_zero=True),
    None,
)


@primitive
def gathered(x: Array, index: np.ndarray) -> Array:
    """Return the elements of the last axis at `index`, an array of the shape of `x`."""
    return np.take_along_axis(x, index, -1)


@primitive
def scattered(x: Array, index: np.ndarray) -> Array:
    """Return an array that has each element of `x` added at its place `index` of the last axis."""
    added = np.zeros_like(x).reshape(-1, x.shape[-1])
    rows = np.arange(len(added))[:, None]
    places = np.broadcast_to(index, x.shape).reshape(added.shape)
    np.add.at(added, (rows, places), x.reshape(added.shape))
    return added.reshape(x.shape)


defvjp(gathered, lambda ans, x, index: lambda g: scattered(g, index), None)
defvjp(scattered, lambda ans, x, index: lambda g: gathered(g, index), None)


@primitive
def power(x: Array, y: Array) -> Array:
    """Return x to the power of y, both arrays, with 0⁰ = 1."""
    return x**y


def _power_by_base(x: Array, y: Array, g: Array) -> Array:
    free = getval(y) == 0  # x⁰ is 1 everywhere, so its derivative is 0 at 0 and at infinity too
    derivative = y * power(x, y - 1)
    return unbroadcast(g * select(free, anp.zeros_like(getval(derivative)), derivative), x.shape)


def _power_by_exponent(ans: Array, x: Array, y: Array, g: Array) -> Array:
    flat = (getval(x) == 0) & (getval(y) >= 0)  # 0 · log 0 is 0
    if exactly():  # in a dtype, 0 · log inf is the nan that an implementation gets after overflow
        flat |= getval(ans) == 0
    one = anp.ones_like(getval(ans))
    derivative = ans * anp.log(select(flat, one, x * one))
    return unbroadcast(g * select(flat, anp.zeros_like(one), derivative), y.shape)


defvjp(
    power,
    lambda ans, x, y: lambda g: _power_by_base(x, y, g),
    lambda ans, x, y: lambda g: _power_by_exponent(ans, x, y, g),
)
