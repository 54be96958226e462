"""The words that a definition may use, each right at its edges in value and derivative.

Beyond its formula a word does three things, all of them without effect outside an ensemble:

- it rounds its result in the members that stand for rounding (`Ensemble.rounded`);
- it keeps the branch of member 0 in the members whose inputs are perturbed (`Ensemble.kept`);
- at a kink, where any subgradient is right, it takes the lowest one in some members and the highest
  in others (`Ensemble.sided`)."""

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
    """Whether the exact answer is wanted, and not what arithmetic in a dtype makes of it."""
    return current.ensemble is not None


def _accept_either(x: Array, y: Array, condition: np.ndarray, some: bool = False) -> Array:
    """x; where `condition` holds y, which is close by, is within the budget as well.

    some : in some of the members that stand for rounding only.
    """
    if current.ensemble is None:
        return x
    doubt = current.ensemble.doubt(x.ndim, some)
    finite = np.isfinite(getval(x))  # between two infinities there is no difference
    return x + _where(condition & finite, y - x, anp.zeros_like(getval(x))) * doubt


def _unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    while anp.ndim(g) > len(shape):
        g = anp.sum(g, axis=0)
    for axis, size in enumerate(shape):
        if size == 1 and anp.shape(g)[axis] != 1:
            g = anp.sum(g, axis=axis, keepdims=True)
    return g


def where(condition: Array, yes: Array, no: Array) -> Array:
    """`yes` where `condition` holds, else `no`; the branch not taken has no derivative."""
    condition = kept(np.asarray(getval(condition)))
    compared(np.isnan(getval(yes)) != np.isnan(getval(no)))
    return _where(condition, yes, no)


@primitive
def _where(condition: np.ndarray, yes: Array, no: Array) -> Array:
    return np.where(condition, yes, no)


# Products with 0 would turn an infinite cotangent into nan in the branch not taken: choose instead.
defvjp(
    _where,
    None,
    lambda ans, c, yes, no: lambda g: _unbroadcast(_where(c, g, anp.zeros_like(g)), np.shape(yes)),
    lambda ans, c, yes, no: lambda g: _unbroadcast(_where(c, anp.zeros_like(g), g), np.shape(no)),
)


def absolute(x: Array) -> Array:
    """|x|. Kink at 0: every slope in [-1, 1] is right."""
    raw = getval(x)
    sign = np.sign(raw)
    # In every member the size itself, whatever its slope: a root or a power may follow.
    return _standing_for(x, raw * kept(sign), kinked(raw, sign, -1.0, 1.0))


def positive_part(x: Array) -> Array:
    """max(x, 0). Kink at 0: every slope in [0, 1] is right."""
    raw = getval(x)
    compared(np.isnan(raw))
    above = raw > 0
    slope = kinked(raw, above.astype(raw.dtype), 0.0, 1.0)
    # nan is not above anything and must not become 0.
    return _where((slope != 0) | np.isnan(raw), x, anp.zeros_like(raw))


def minimum(x: Array, y: Array) -> Array:
    """The smaller of the two. Kink where they are equal."""
    return _where(_first(_lead(getval(y), getval(x))) | np.isnan(getval(x)), x, y)


def maximum(x: Array, y: Array) -> Array:
    """The larger of the two. Kink where they are equal."""
    return _where(_first(_lead(getval(x), getval(y))) | np.isnan(getval(x)), x, y)


def _lead(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y, and 0 where both are the same infinity."""
    return np.where((x == y) & np.isinf(x), np.zeros_like(x), x - y)


def _first(lead: np.ndarray) -> np.ndarray:
    """Whether the first of two is chosen, given what speaks for it."""
    compared(np.isnan(lead))
    return kinked(lead, (lead > 0).astype(lead.dtype), 0.0, 1.0) != 0


def largest(x: Array) -> Array:
    """max over the last axis. Kink where several are the largest: any one of them may be it.

    The largest of none is -inf.
    """
    raw = getval(x)
    compared(np.isnan(raw))
    if not raw.shape[-1]:
        return np.full_like(raw, -np.inf, shape=raw.shape[:-1])
    top = np.max(raw, axis=-1, keepdims=True)
    first = np.arange(raw.shape[-1]) == np.argmax(raw, axis=-1)[..., None]
    second = np.max(np.where(first, np.full_like(raw, -np.inf), raw), axis=-1, keepdims=True)
    lead = _lead(raw, np.where(first, second, top))  # of each over the best of the others
    chosen = kinked(lead, first.astype(raw.dtype), 0.0, 1.0)
    # The value is the top whichever is chosen; x - raw would be nan where x is infinite.
    return top[..., 0] + anp.sum(_standing_for(x, np.zeros_like(raw), chosen), axis=-1)


@primitive
def _standing_for(x: Array, value: np.ndarray, slope: np.ndarray) -> Array:
    """`value`, with the derivative `slope` by `x`."""
    return value


defvjp(_standing_for, lambda ans, x, value, slope: lambda g: g * slope, None, None)


def clamped(x: Array, lowest: Array) -> Array:
    """max(x, lowest), whose derivative by x is 1 even where `lowest` is taken."""
    raw, floor = getval(x), getval(lowest)
    return _standing_for(x, np.where(kept(raw < floor), floor, raw), np.ones_like(raw))


def any_slope(x: Array, undecided: Array) -> Array:
    """x; where `undecided` holds its derivative is left open: every slope in [0, 1] is right."""
    if not isbox(x):
        return x
    raw = getval(x)
    distance = np.where(kept(np.asarray(getval(undecided))), np.zeros_like(raw), np.ones_like(raw))
    # The moved members take the second side: what is open is not known to any precision.
    return _standing_for(x, raw, kinked(distance, np.ones_like(raw), 1.0, 0.0))


def by_convention(x: Array, value: float, undefined: np.ndarray) -> Array:
    """x; where it is undefined the value that is agreed on, and nothing is asked of the slope.

    The value may be nan: this is how a definition says that its result is nan for valid numbers.
    """
    raw, undefined = getval(x), kept(np.asarray(getval(undefined)))
    if np.isnan(value) and current.ensemble is not None:
        current.ensemble.stated.append(np.broadcast_to(undefined, raw.shape)[0])
    agreed = np.where(undefined, np.full_like(raw, value), raw)
    return _standing_for(x, agreed, np.where(undefined, np.full_like(raw, np.nan), 1))


def cancelled(x: Array) -> Array:
    """0, as the sum of x and -x: its derivative is off by the rounding of a slope of 1."""
    ones = np.ones_like(getval(x))
    return _standing_for(x, np.zeros_like(ones), rounded(ones) - ones)


def pick(x: Array, index: np.ndarray) -> Array:
    """x[..., index]: along the last axis, one element for each index."""
    classes = np.arange(getval(x).shape[-1])
    chosen = np.asarray(index)[..., None] == classes
    return anp.sum(_where(chosen, x, anp.zeros_like(getval(x))), axis=-1)


def joined(*parts: Array) -> Array:
    """The parts one behind the other along the last axis."""
    return anp.concatenate(parts, axis=-1)


def one_hot(index: np.ndarray, classes: int, like: Array) -> np.ndarray:
    """The distribution that is certain of class `index`, along a new last axis, in like's dtype."""
    return (np.asarray(index)[..., None] == np.arange(classes)).astype(getval(like).dtype)


def total(x: Array) -> Array:
    """Σ over the last axis; one term after the other, many are rounded more than once."""
    return rounded(anp.sum(x, axis=-1), times=_roundings(x))


def matvec(matrix: Array, x: Array) -> Array:
    """The products of a matrix, in the last two axes, with vectors; each is rounded for itself."""
    terms = matrix * x[..., None, :]
    return rounded(anp.sum(terms, axis=-1), times=_roundings(terms), apart=True)


def _roundings(terms: Array) -> float:
    return max(1.0, np.log2(max(getval(terms).shape[-1], 1)) / 2)


@primitive
def repeated(x: Array, count: int) -> Array:
    """x along a new last axis, `count` times; its slope is the total of theirs."""
    return np.broadcast_to(x[..., None], (*x.shape, count))


defvjp(repeated, lambda ans, x, count: total, None)


def log_softmax(x: Array) -> Array:
    """log of softmax along the last axis, shifted by the largest so that it cannot overflow."""
    return rounded(_log_softmax(x))


@primitive
def _log_softmax(x: Array) -> Array:
    if x.shape[-1] == 0:
        return x
    top = np.max(x, axis=-1, keepdims=True)
    z = x - np.where(top > -np.inf, top, np.zeros_like(top))
    if _exactly():
        z = np.where(_alone(x), np.zeros_like(z), z)  # where several are inf nothing is left
    # The sum is at least 1: its rounding is an absolute error of the logarithm.
    return z - np.log(rounded(np.sum(np.exp(z), axis=-1, keepdims=True)))


defvjp(
    _log_softmax,
    lambda ans, x: lambda g: g - _softmax(x) * _foreknown_sum(g),
)


def _alone(x: np.ndarray) -> np.ndarray:
    """Where a number is the only inf along the last axis."""
    infinite = x == np.inf
    return np.asarray(infinite & (infinite.sum(axis=-1, keepdims=True) == 1))


def _softmax(x: Array) -> Array:
    # It is taken from the logarithm, which is off by more where it is large.
    return rounded(anp.exp(rounded(_log_softmax(x), apart=True)), apart=True)


def _foreknown_sum(g: Array) -> Array:
    """Σ g; half of the rounding members know it, as gradients do that are derived by hand."""
    added = anp.sum(g, axis=-1, keepdims=True)
    if current.ensemble is None:
        return added
    members = np.zeros(current.ensemble.size, bool)
    members[current.ensemble.rounding] = HALF
    return _where(current.ensemble.column(members, getval(added).ndim), added[:1], added)


@primitive
def log_sum_exp(x: Array) -> Array:
    """log Σ eˣ over the last axis; a term of -inf adds nothing, and has no slope."""
    if not x.shape[-1]:
        return np.full_like(x, -np.inf, shape=x.shape[:-1])
    top = np.max(x, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, np.zeros_like(top))
    total = np.sum(np.exp(x - top), axis=-1)
    # But for nothing the sum is at least 1: its rounding is an absolute error of the logarithm.
    log_total = np.log(np.where(total > 0, rounded(total), total))
    return rounded(top[..., 0] + log_total, steady=True)


def _shares(ans: Array, x: Array) -> Array:
    """Each term's share of Σ eˣ, and 0 where all terms are -inf."""
    raw = getval(x)
    # A logarithm that was kept for this has been rounded, which matters where it is large.
    apart = x - rounded(ans, steady=True)[..., None]
    if _exactly() and np.isposinf(raw).any():
        apart = _where(_alone(raw), np.zeros_like(raw), apart)
    return rounded(anp.exp(_where(raw > -np.inf, apart, np.full_like(raw, -np.inf))))


defvjp(log_sum_exp, lambda ans, x: lambda g: g[..., None] * _shares(ans, x))


def norm(x: Array, p: float) -> Array:
    """‖x‖ₚ over the last axis, p ≥ 1. Kink at 0: every slope in [-1, 1] is right."""
    if p == np.inf:
        return largest(absolute(x))
    if p == 1:
        return total(absolute(x))
    raw = getval(x)
    infinite = np.isinf(raw).any(axis=-1)
    if _exactly() and infinite.any():  # next to an infinite number finite ones count for nothing
        finite = _where(infinite[..., None], np.zeros_like(raw), x)
        return _where(infinite, largest(absolute(x)), norm(finite, p))
    size = _standing_for(x, np.abs(raw), np.sign(raw))  # its powers have no kink
    power = total(x * x if p == 2 else size**p)
    # At 0 the root has no slope; there the norm is any other one, such as the sum.
    zero = ~np.any(raw, axis=-1)
    if current.ensemble is not None:
        zero = kept(zero)
        zero[2:] |= np.all(current.ensemble.either(raw), axis=-1)
        current.ensemble.tips.append(np.asarray(zero.any(axis=0)))
    power = _where(zero, anp.ones_like(power), power)
    root = sqrt(power) if p == 2 else rounded(power ** constant(1 / p, like=power))
    return _where(zero, total(absolute(x)), root)


def times(x: Array, y: Array) -> Array:
    """x·y, where 0 times anything is 0: an impossible event costs nothing, however unlikely."""
    zero = (getval(x) == 0) | (getval(y) == 0)
    if not np.any(zero & ~(np.isfinite(getval(x)) & np.isfinite(getval(y)))):
        return x * y
    safe_x = _where(zero & ~np.isfinite(getval(x)), anp.zeros_like(getval(x)), x)
    safe_y = _where(zero & ~np.isfinite(getval(y)), anp.zeros_like(getval(y)), y)
    return safe_x * safe_y


def x_log_x(x: Array) -> Array:
    """x·log(x), and 0 at 0, where its derivative is -inf."""
    return rounded(_x_log_x(x))


@primitive
def _x_log_x(x: Array) -> Array:
    zero = x == 0
    return x * np.log(np.where(zero, np.ones_like(x), x))


defvjp(_x_log_x, lambda ans, x: lambda g: g * (rounded(anp.log(x)) + 1))


def minus(x: Array, y: Array) -> Array:
    """x - y."""
    return rounded(x - y)


def over(x: Array, y: Array) -> Array:
    """x / y."""
    return rounded(x / y)


def constant(value: float, like: Array) -> Array:
    """A parameter, in the shape of `like`; rounded unless every dtype holds it exactly."""
    filled = anp.full_like(getval(like), value)
    return filled if float(ml_dtypes.bfloat16(value)) == value else rounded(filled)


def exp(x: Array) -> Array:
    """eˣ."""
    return rounded(anp.exp(x))


def log(x: Array) -> Array:
    """Natural logarithm."""
    return rounded(anp.log(x))


def clamped_log(x: Array, lowest: float, held: Array) -> Array:
    """log(x), at least `lowest`; where that cuts, any finite slope of 0 or more is right.

    Where `held`, any slope from 0 to the logarithm's.
    """
    raw = getval(x)
    cut = kept(np.log(raw) < lowest)
    zero, one = np.zeros_like(raw), np.ones_like(raw)
    x = any_slope(x, getval(held) & ~cut)
    slope = kinked(np.where(cut, zero, one), zero, ANY_FINITE_SLOPE, 0.0)
    floor = _standing_for(x, np.full_like(raw, lowest), slope)
    return _where(cut, floor, log(_where(cut, one, x)))


def complement(p: Array) -> Array:
    """1 - p: the probability of the other outcome."""
    return rounded(1 - p)


def sqrt(x: Array) -> Array:
    """Square root."""
    return rounded(anp.sqrt(x))


def softplus(x: Array) -> Array:
    """log(1 + eˣ), without overflow; beyond `SOFTPLUS_LINEAR` x itself is as right."""
    return rounded(_accept_either(_softplus(x), x, getval(x) > SOFTPLUS_LINEAR)) + _by_logarithm(x)


@primitive
def _softplus(x: Array) -> Array:
    return np.maximum(x, np.zeros_like(x)) + np.log1p(np.exp(-np.abs(x)))


defvjp(_softplus, lambda ans, x: lambda g: g * sigmoid(x))


def _by_logarithm(x: Array) -> Array:
    """0, whose slope is what σ(x) is off by when it is taken as exp(x - softplus(x))."""
    raw = getval(x)
    if current.ensemble is None:
        return np.zeros_like(raw)
    # Further on the softplus is x itself, exactly.
    near = raw < -np.log(current.ensemble.unit)
    slope = np.where(near, _softplus(raw) * _sigmoid(raw), np.zeros_like(raw))
    return _standing_for(x, np.zeros_like(raw), rounded(slope) - slope)


def minus_log_sigmoid(x: Array) -> tuple[Array, Array]:
    """-log σ(x) and -log(1 - σ(x)), which is x more; far out |x| and 0 are as right."""
    raw = getval(x)
    infinite = np.isinf(raw)
    if _exactly() and infinite.any():  # x more than inf is nan
        finite = minus_log_sigmoid(_where(infinite, np.zeros_like(raw), x))
        limits = (softplus(-x), softplus(x))
        return _where(infinite, limits[0], finite[0]), _where(infinite, limits[1], finite[1])
    large = np.abs(raw) > SOFTPLUS_LINEAR
    minus_log_p = rounded(_softplus(-x))
    # One of the two may be taken so and the other not.
    minus_log_q = rounded(_accept_either(x + minus_log_p, x * (raw > 0), large, some=True))
    minus_log_p = _accept_either(minus_log_p, -x * (raw < 0), large)
    return minus_log_p + _by_logarithm(-x), minus_log_q + _by_logarithm(x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e⁻ˣ), without overflow."""
    return rounded(_sigmoid(x))


@primitive
def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    one = np.ones_like(x)
    return np.where(x >= 0, one / (one + small), small / (one + small))


def _sigmoid_slope(ans: Array, x: Array) -> Array:
    # σ (1 - σ), exactly, but for the roundings: there 1 - σ is off by what rounds σ.
    return ans * (_sigmoid(-x) - (rounded(ans) - ans))


defvjp(_sigmoid, lambda ans, x: lambda g: g * _sigmoid_slope(ans, x))
PI = pi
