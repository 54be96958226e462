"""Words that add up or multiply: totals, products of matrices, and norms."""

from __future__ import annotations

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from lossspec.maths.choices import absolute, largest
from lossspec.maths.elementwise import constant, sqrt
from lossspec.maths.ensemble import Array, current, kept, rounded
from lossspec.maths.primitives import exactly, select, standing_for


def total(x: Array) -> Array:
    """Return the sum over the last axis.

    Derivative: 1 for each term. The result is rounded by max(1, log₂(K) / 2) unit roundoffs, since
    a sum of K terms rounds more than once.

    Args:
        x: Numbers of shape (..., K).

    Returns:
        Numbers of shape (...).
    """
    return rounded(anp.sum(x, axis=-1), times=_roundings(x))


def _roundings(terms: Array) -> float:
    """Return by how many unit roundoffs to round a sum over the last axis."""
    return max(1.0, np.log2(max(getval(terms).shape[-1], 1)) / 2)


def matvec(matrix: Array, x: Array) -> Array:
    """Return the product of a matrix with a vector.

    The elements of the result are rounded independently, each as by `total`. The derivatives are
    those of the product and are not rounded.

    Args:
        matrix: Numbers of shape (..., M, K).
        x: Numbers of shape (..., K).

    Returns:
        Numbers of shape (..., M).
    """
    terms = matrix * x[..., None, :]
    return rounded(anp.sum(terms, axis=-1), times=_roundings(terms), apart=True)


def norm(x: Array, p: float) -> Array:
    """Return the p-norm ‖x‖ₚ over the last axis.

    Derivative: where x is 0 there is a kink; any value in [-1, 1] by each element is correct. For
    p = 1 and p = inf the kinks are those of `absolute` and `largest`. The sum of the powers and the
    root are rounded.

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
        current.ensemble.tips.append(np.asarray(zero.any(axis=0)))
    power = select(zero, anp.ones_like(power), power)
    root = sqrt(power) if p == 2 else rounded(power ** constant(1 / p, like=power))
    return select(zero, total(absolute(x)), root)
