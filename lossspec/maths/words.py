"""The words that a definition may use: functions that are correct at their edges.

A word gives the right value and derivative where a formula has an edge: a kink, an infinity, a
division by 0. Beyond its formula a word does three things, which have no effect outside an ensemble
(`lossspec.maths.ensemble`):

- it perturbs its result in the rounding members (`Ensemble.rounded`);
- it keeps the branch of member 0 in the members whose inputs are perturbed (`Ensemble.kept`);
- at a kink, where any subgradient is correct, it takes the lowest one in some members and the
  highest in others (`Ensemble.sided`).

Arrays are numpy arrays or autograd's boxes around them. Their leading axes are those that the
result of `define` has, the batch for example; `...` stands for them in the shapes below. Arguments
of one word broadcast with each other unless it says otherwise.
"""

from __future__ import annotations

from math import pi

import autograd.numpy as anp
import ml_dtypes
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval, isbox

from lossspec.maths.ensemble import HALF, Array, compared, current, kept, kinked, rounded
from lossspec.thresholds import ANY_FINITE_SLOPE, SOFTPLUS_LINEAR


def _exactly() -> bool:
    """Return whether this is the exact evaluation, and not the plain formula in a dtype."""
    return current.ensemble is not None


def _accept_either(x: Array, y: Array, condition: np.ndarray, some: bool = False) -> Array:
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
    return x + _where(condition & finite, y - x, anp.zeros_like(getval(x))) * doubt


def _unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Return a cotangent summed over the axes that were broadcast from `shape`."""
    while anp.ndim(g) > len(shape):
        g = anp.sum(g, axis=0)
    for axis, size in enumerate(shape):
        if size == 1 and anp.shape(g)[axis] != 1:
            g = anp.sum(g, axis=axis, keepdims=True)
    return g


def _array(x: Array, like: Array) -> Array:
    """Return an array as it is, and a number as a `constant` in the shape of `like`."""
    return x if isbox(x) or np.ndim(x) else constant(float(x), like)


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
    return _where(condition, yes, no)


@primitive
def _where(condition: np.ndarray, yes: Array, no: Array) -> Array:
    return np.where(condition, yes, no)


# Select the cotangent: multiplying it by 0 turns an infinite one into nan in the other branch.
defvjp(
    _where,
    None,
    lambda ans, c, yes, no: lambda g: _unbroadcast(_where(c, g, anp.zeros_like(g)), np.shape(yes)),
    lambda ans, c, yes, no: lambda g: _unbroadcast(_where(c, anp.zeros_like(g), g), np.shape(no)),
)


def absolute(x: Array) -> Array:
    """Return |x|, element by element.

    Derivative: the sign of x. At the kink 0, any value in [-1, 1] is correct. There is no rounding.
    """
    raw = getval(x)
    sign = np.sign(raw)
    # The value is |x| whichever side a member takes, since a root or a power may follow.
    return _standing_for(x, raw * kept(sign), kinked(raw, sign, -1.0, 1.0))


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
    return _where((slope != 0) | np.isnan(raw), x, anp.zeros_like(raw))


def minimum(x: Array, y: Array) -> Array:
    """Return the smaller of two arrays, element by element.

    Derivative: 1 for the smaller one. Equal elements are a kink: any split of the derivative
    between them is correct. If either element is nan, so is the result. There is no rounding.
    """
    x, y = _array(x, y), _array(y, x)
    return _where(_first(_lead(getval(y), getval(x))) | np.isnan(getval(x)), x, y)


def maximum(x: Array, y: Array) -> Array:
    """Return the larger of two arrays, element by element.

    Derivative: 1 for the larger one. Equal elements are a kink: any split of the derivative
    between them is correct. If either element is nan, so is the result. There is no rounding.
    """
    x, y = _array(x, y), _array(y, x)
    return _where(_first(_lead(getval(x), getval(y))) | np.isnan(getval(x)), x, y)


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
    return top[..., 0] + anp.sum(_standing_for(x, np.zeros_like(raw), chosen), axis=-1)


@primitive
def _standing_for(x: Array, value: np.ndarray, derivative: np.ndarray) -> Array:
    """Return `value`, with the derivative `derivative` by `x`; both have the shape of `x`."""
    return value


defvjp(_standing_for, lambda ans, x, value, derivative: lambda g: g * derivative, None, None)


def clamped(x: Array, lowest: Array) -> Array:
    """Return max(x, lowest) with the derivative 1 by `x`, even where `lowest` is taken.

    The derivative by `lowest` is 0. There is no rounding.

    Args:
        x: Numbers of any shape.
        lowest: A lower bound, of the shape of `x`.
    """
    raw, floor = getval(x), getval(_array(lowest, x))
    return _standing_for(x, np.where(kept(raw < floor), floor, raw), np.ones_like(raw))


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
    return _standing_for(x, raw, kinked(distance, np.ones_like(raw), 1.0, 0.0))


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
    return _standing_for(x, agreed, np.where(undefined, np.full_like(raw, np.nan), 1))


def pick(x: Array, index: np.ndarray) -> Array:
    """Return `x[..., index]`: one element of the last axis for each index.

    Derivative: 1 for that element and 0 for the others. There is no rounding.

    Args:
        x: Numbers of shape (..., C).
        index: Integers, of a shape that broadcasts with (...). An index outside [0, C) gives 0.

    Returns:
        Numbers of the broadcast shape.
    """
    classes = np.arange(getval(x).shape[-1])
    chosen = np.asarray(index)[..., None] == classes
    return anp.sum(_where(chosen, x, anp.zeros_like(getval(x))), axis=-1)


def joined(*parts: Array) -> Array:
    """Return arrays joined along the last axis, without rounding.

    Args:
        *parts: Arrays that have the same shape but for the last axis.
    """
    return anp.concatenate(parts, axis=-1)


def one_hot(index: np.ndarray, classes: int, like: Array) -> np.ndarray:
    """Return the one-hot encoding of class indices.

    It has no derivative and no rounding.

    Args:
        index: Integers of shape (...), in [0, classes).
        classes: The number of classes C.
        like: An array whose dtype the result takes.

    Returns:
        Numbers of shape (..., C).
    """
    return (np.asarray(index)[..., None] == np.arange(classes)).astype(getval(like).dtype)


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


def _roundings(terms: Array) -> float:
    """Return by how many unit roundoffs to round a sum over the last axis."""
    return max(1.0, np.log2(max(getval(terms).shape[-1], 1)) / 2)


@primitive
def repeated(x: Array, count: int) -> Array:
    """Return `x` repeated along a new last axis.

    The derivative sums the cotangents of the copies, and is rounded as by `total`.

    Args:
        x: Numbers of shape (...).
        count: How many copies to make.

    Returns:
        Numbers of shape (..., count).
    """
    return np.broadcast_to(x[..., None], (*x.shape, count))


defvjp(repeated, lambda ans, x, count: total, None)


def log_softmax(x: Array) -> Array:
    """Return the logarithm of the softmax along the last axis.

    The largest element is subtracted first, so the exponentials cannot overflow. An element of
    -inf gives -inf. With a single inf, its own element gives 0 and the others -inf; with several
    the result is nan. The sum of the exponentials is rounded, and so is the result. Derivative:
    g - softmax(x)·Σ g for a cotangent g, where the softmax is computed from the rounded result.

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
    if _exactly():
        z = np.where(_alone(x), np.zeros_like(z), z)  # inf - inf, where x is the only inf
    # The sum is at least 1, so its relative rounding is an absolute error of the logarithm.
    return z - np.log(rounded(np.sum(np.exp(z), axis=-1, keepdims=True)))


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
    added = anp.sum(g, axis=-1, keepdims=True)
    if current.ensemble is None:
        return added
    members = np.zeros(current.ensemble.size, bool)
    members[current.ensemble.rounding] = HALF
    return _where(current.ensemble.column(members, getval(added).ndim), added[:1], added)


@primitive
def log_sum_exp(x: Array) -> Array:
    """Return log Σ eˣ over the last axis, without overflow.

    A term of -inf adds nothing and has the derivative 0. The derivative by the others is their
    share of the sum. The sum is rounded, and the result once more.

    Args:
        x: Numbers of shape (..., K). With K = 0 the result is -inf.

    Returns:
        Numbers of shape (...).
    """
    if not x.shape[-1]:
        return np.full_like(x, -np.inf, shape=x.shape[:-1])
    top = np.max(x, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, np.zeros_like(top))
    total = np.sum(np.exp(x - top), axis=-1)
    # The sum is 0 or at least 1, so its relative rounding is an absolute error of the logarithm.
    log_total = np.log(np.where(total > 0, rounded(total), total))
    return rounded(top[..., 0] + log_total, steady=True)


def _shares(ans: Array, x: Array) -> Array:
    """Return each term's share of Σ eˣ, and 0 where all terms are -inf."""
    raw = getval(x)
    # The forward pass keeps a rounded logarithm, whose absolute error grows with its size.
    apart = x - rounded(ans, steady=True)[..., None]
    if _exactly() and np.isposinf(raw).any():
        apart = _where(_alone(raw), np.zeros_like(raw), apart)
    return rounded(anp.exp(_where(raw > -np.inf, apart, np.full_like(raw, -np.inf))))


defvjp(log_sum_exp, lambda ans, x: lambda g: g[..., None] * _shares(ans, x))


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
    if _exactly() and infinite.any():  # the infinite elements alone have a derivative
        finite = _where(infinite[..., None], np.zeros_like(raw), x)
        return _where(infinite, largest(absolute(x)), norm(finite, p))
    size = _standing_for(x, np.abs(raw), np.sign(raw))  # a power of |x| has no kink
    power = total(x * x if p == 2 else size**p)
    # The root has no derivative at 0. Take the 1-norm there, which is 0 too and has a kink.
    zero = ~np.any(raw, axis=-1)
    if current.ensemble is not None:
        zero = kept(zero)
        zero[2:] |= np.all(current.ensemble.either(raw), axis=-1)
        current.ensemble.tips.append(np.asarray(zero.any(axis=0)))
    power = _where(zero, anp.ones_like(power), power)
    root = sqrt(power) if p == 2 else rounded(power ** constant(1 / p, like=power))
    return _where(zero, total(absolute(x)), root)


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
    safe_x = _where(zero & ~np.isfinite(getval(x)), anp.zeros_like(getval(x)), x)
    safe_y = _where(zero & ~np.isfinite(getval(y)), anp.zeros_like(getval(y)), y)
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
    floor = _standing_for(x, np.full_like(raw, lowest), slope)
    return _where(cut, floor, log(_where(cut, one, x)))


def sqrt(x: Array) -> Array:
    """Return the square root, rounded, element by element; its derivative is inf at 0."""
    return rounded(anp.sqrt(x))


def softplus(x: Array) -> Array:
    """Return log(1 + eˣ), without overflow, element by element.

    For x > `SOFTPLUS_LINEAR` (20) the budget also accepts x itself, as torch documents for its
    softplus. Derivative: σ(x), with the error of computing it as exp(x - softplus(x)). The result
    is rounded.
    """
    return rounded(_accept_either(_softplus(x), x, getval(x) > SOFTPLUS_LINEAR)) + _by_logarithm(x)


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
    return _standing_for(x, np.zeros_like(raw), rounded(scale) - scale)


def minus_log_sigmoid(x: Array) -> tuple[Array, Array]:
    """Return (-log σ(x), -log(1 - σ(x))), without overflow.

    For |x| > `SOFTPLUS_LINEAR` (20) the budget also accepts the asymptotes |x| and 0, as torch
    documents for its softplus. The derivatives are -σ(-x) and σ(x). The first result is rounded,
    and the second as x plus the first.

    Args:
        x: Logits of any shape.

    Returns:
        Two arrays of the shape of `x`.
    """
    raw = getval(x)
    infinite = np.isinf(raw)
    if _exactly() and infinite.any():  # x plus inf is nan for x = -inf
        finite = minus_log_sigmoid(_where(infinite, np.zeros_like(raw), x))
        limits = (softplus(-x), softplus(x))
        return _where(infinite, limits[0], finite[0]), _where(infinite, limits[1], finite[1])
    large = np.abs(raw) > SOFTPLUS_LINEAR
    minus_log_p = rounded(_softplus(-x))
    # An implementation may use the asymptote for one of the two only.
    minus_log_q = rounded(_accept_either(x + minus_log_p, x * (raw > 0), large, some=True))
    minus_log_p = _accept_either(minus_log_p, -x * (raw < 0), large)
    return minus_log_p + _by_logarithm(-x), minus_log_q + _by_logarithm(x)


def sigmoid(x: Array) -> Array:
    """Return σ(x) = 1 / (1 + e⁻ˣ), without overflow, rounded, element by element.

    Derivative: σ(x)·(1 - σ(x)), where 1 - σ(x) has the rounding error of σ(x).
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
PI = pi
