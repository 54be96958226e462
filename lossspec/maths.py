"""The vocabulary of `define`: words that are right at their edges, in value and derivative.

A definition is evaluated on an *ensemble*: axis 0 of every array counts members. Member 0 is the
case itself; the others are the same case with something moved a little, and what they do
to the result is how `lossspec.budget` knows what rounding may do to it. A word does three things
beyond its formula, all of them no-ops outside an ensemble:

- it rounds its result in the members that stand for rounding (`Ensemble.rounded`);
- it keeps the branch of member 0 in the members that are only moved (`Ensemble.kept`);
- at a kink, where any subgradient is right, it takes the lowest in one member and the highest in
  another (`Ensemble.sided`).

At ±inf a word takes its mathematical limit there. Outside an ensemble it loses what arithmetic in
a dtype loses, such as inf - inf: what the textbook loses so is not asked of an implementation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import pi
from typing import Any

import autograd.numpy as anp
import ml_dtypes
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval, isbox

Array = Any  # an ndarray, or autograd's box around one

#: Relative size of every move, at most. Far below curvature.
STEP = 2.0**-30
#: How many members stand for rounding inside the words.
ROUNDING_MEMBERS = 8
#: Beyond this torch's softplus is documented to be its argument.
LINEAR = 20.0
#: How many members, the last ones, differ in the side that they take at a kink.
SIDES = 6
#: How many kinks, the first ones, take their sides each on its own.
LISTED = 4


def _signs(*twists: np.ndarray) -> np.ndarray:
    """Ways to round a result in the members that stand for rounding: eight by each twist, ±1.

    Of eight ways in a row from a multiple of 8 the signs are orthogonal: however a definition
    combines results that are rounded so, some member shows at least the root of the sum of their
    squares. Any two ways, also of two twists, agree in at most three quarters of the members.
    """
    rows = [
        (way & 1) * _LOW ^ (way >> 1 & 1) * _MIDDLE ^ (way >> 2) * _HIGH ^ twist
        for twist in twists
        for way in range(ROUNDING_MEMBERS)
    ]
    return 1.0 - 2 * np.array(rows)


_LOW, _MIDDLE, _HIGH = ((np.arange(ROUNDING_MEMBERS) >> bit) & 1 for bit in range(3))
_PAIRS = (_LOW & _MIDDLE, _MIDDLE & _HIGH, _LOW & _HIGH)
#: How the words of a definition are rounded, one after the other,
_SIGNS = _signs(0 * _LOW, *_PAIRS)
#: and how the elements of a word are that are rounded apart, in ways that no word has.
_SIGNS_APART = _signs(_PAIRS[0] ^ _PAIRS[1], _PAIRS[1] ^ _PAIRS[2], _PAIRS[2] ^ _PAIRS[0])
#: Half of the members, in a pattern that is in neither table.
_HALF = np.bitwise_xor.reduce(_PAIRS).astype(bool)


def step_of(unit: float) -> float:
    """Relative size of every move for a dtype of this unit roundoff.

    Far above what longdouble rounds; no further above the unit, since what saturates, such as the
    probabilities of enormous logits, does not grow with the move.
    """
    return min(STEP, max(4 * unit, 2.0**12 * float(np.finfo(np.longdouble).eps)))


@dataclass
class Ensemble:
    """What the members of axis 0 stand for while a definition is evaluated.

    Member 0 is the case itself, member 1 the case moved by one unit in the last place. In those up
    to `rounding` one input each is moved, in the `ROUNDING_MEMBERS` there each word's result is
    rounded. The last `SIDES` differ in the side that they take at a kink: the last but one takes
    the lower slope always, the last one the higher, and those before now this and now that.
    """

    #: How many members there are.
    size: int
    #: Unit roundoff of the case's dtype, and its smallest subnormal.
    unit: float
    smallest: float
    #: `lossspec.budget.SLACK`.
    slack: float
    #: Whether every member takes its own branches: one close by shows as an enormous change.
    free: bool = False
    #: Relative size of every move.
    step: float = STEP
    #: How many results have been rounded, and how many kinks have been met, so far.
    words: int = field(default=0)
    kinks: int = field(default=0)
    #: For each kink, where a case lies on it.
    meetings: list[np.ndarray] = field(default_factory=list)
    #: For each length, where it is 0 and so has no slope.
    tips: list[np.ndarray] = field(default_factory=list)
    #: Whether a nan was compared with a number, which may lose it.
    compared: bool = False
    #: Where the definition says itself that a result is nan.
    stated: list[np.ndarray] = field(default_factory=list)

    @property
    def rounding(self) -> slice:
        """The members in which each word's result is rounded."""
        return slice(self.size - SIDES - ROUNDING_MEMBERS, self.size - SIDES)

    def column(self, values: np.ndarray, ndim: int) -> np.ndarray:
        """One number for each member, in a shape that broadcasts over the other axes."""
        return values.reshape((self.size,) + (1,) * (ndim - 1))

    def rounded(
        self, x: Array, steady: bool = False, times: float = 1.0, apart: bool = False
    ) -> Array:
        """`x` moved by one rounding (relative and, near zero, absolute) in the rounding members.

        steady : the same way each time, for the links of a chain whose errors add up. times : as
        many roundings at once. apart : each along the last axis in a way of its own, for numbers
        whose differences count.
        """
        raw = getval(x)
        shape = (*(1,) * (raw.ndim - 2), raw.shape[-1]) if apart else (1,) * (raw.ndim - 1)
        ways = _SIGNS[self.words % len(_SIGNS)]
        if steady:
            ways = 2.0 * _HALF - 1
        elif apart:
            ways = _SIGNS_APART[(self.words + np.arange(raw.shape[-1])) % len(_SIGNS_APART)].T
        signs = np.zeros((self.size, *shape), raw.dtype)
        signs[self.rounding] = ways.reshape(ROUNDING_MEMBERS, *shape)
        self.words += 1
        size = np.abs(raw)
        moves = (signs * (times * self.step)) * (
            np.where(np.isfinite(size), size, 0) + self.smallest / self.unit
        )
        return x + moves

    def doubt(self, ndim: int, some: bool) -> np.ndarray:
        """By how much a difference has to count in the rounding members to be within the budget."""
        counts = np.zeros(self.size)
        counts[self.rounding] = 2 * self.step / (self.slack * self.unit)
        if some:
            counts[self.rounding] *= _HALF
        return self.column(counts, ndim)

    def kept(self, condition: np.ndarray) -> np.ndarray:
        """Branches of member 0 in every member that is only moved (the neighbour has its own)."""
        condition = np.array(np.broadcast_to(condition, (self.size, *condition.shape[1:])))
        if not self.free:
            condition[2:] = condition[:1]
        return condition

    def sided(self, argument: np.ndarray, slope: np.ndarray, low: float, high: float) -> np.ndarray:
        """Slopes of a function with a kink where `argument` is 0.

        Where rounding may have put `argument` on either side of 0, the last members take their
        sides, and the moved ones the higher slope, like the very last, which they are compared to.
        """
        slope = self.kept(slope)
        either = self.either(argument)
        self.meetings.append(either)
        if not self.free:
            slope[2:] = np.where(either, high, slope[0])
        # Of the first `LISTED` kinks in a definition any two may meet, each on its own side.
        odd, late, more = self.kinks & 1, self.kinks & 2, self.kinks >= LISTED
        mixed = (more or odd, more or not odd, more or late, more or not late)
        for i, higher in enumerate((*mixed, False, True), start=-SIDES):
            slope[i] = np.where(either, high if higher else low, slope[0])
        self.kinks += 1
        return slope

    def crowded(self, loop: tuple[int, ...]) -> np.ndarray:
        """Where more kinks meet in an element of the loss than the sides can tell apart."""
        counts, late = np.zeros(loop, int), np.zeros(loop, bool)
        for kink, either in enumerate(self.meetings):
            meets = either.any(axis=tuple(range(len(loop), either.ndim)))
            counts += meets
            late |= meets & (kink >= LISTED)
        return np.asarray((counts > 2) | (late & (counts > 1)))

    def pointed(self, loop: tuple[int, ...]) -> np.ndarray:
        """Which elements of the loss are made of a length of 0."""
        pointed = np.zeros(loop, bool)
        for tip in self.tips:
            pointed |= tip.any(axis=tuple(range(len(loop), tip.ndim)))
        return pointed

    def stated_nan(self, loop: tuple[int, ...]) -> np.ndarray:
        """Which elements of the loss the definition itself says to be nan."""
        stated = np.zeros(loop, bool)
        for nan in self.stated:
            each = np.broadcast_to(nan, (1,) * (len(loop) - nan.ndim) + nan.shape)
            stated |= each.any(axis=tuple(range(len(loop), each.ndim)))
        return stated

    def either(self, argument: np.ndarray) -> np.ndarray:
        """Where rounding may have put `argument` on either side of 0."""
        with np.errstate(invalid="ignore"):
            moves = np.abs(argument - argument[:1])
            moved = moves[2 : self.rounding.start].sum(0) + moves[self.rounding].max(0)
            reach = moved * (self.slack * self.unit / self.step)
            return np.asarray(np.abs(argument[0]) <= reach + self.slack * self.smallest)


class _Here(threading.local):
    ensemble: Ensemble | None = None


_here = _Here()


@contextmanager
def ensemble(members: Ensemble) -> Iterator[None]:
    """Within it, axis 0 of every array counts the members of `members`."""
    outer, _here.ensemble = _here.ensemble, members
    try:
        yield
    finally:
        _here.ensemble = outer


def _exactly() -> bool:
    """Whether the exact answer is wanted, and not what arithmetic in a dtype makes of it."""
    return _here.ensemble is not None


def rounded(x: Array, steady: bool = False, times: float = 1.0, apart: bool = False) -> Array:
    """`x`, rounded in the members that stand for rounding."""
    return x if _here.ensemble is None else _here.ensemble.rounded(x, steady, times, apart)


def _or(x: Array, y: Array, condition: np.ndarray, some: bool = False) -> Array:
    """x; where `condition` holds y, which is close by, is within the budget as well.

    some : in some of the members that stand for rounding only.
    """
    if _here.ensemble is None:
        return x
    doubt = _here.ensemble.doubt(x.ndim, some)
    finite = np.isfinite(getval(x))  # between two infinities there is no difference
    return x + _where(condition & finite, y - x, anp.zeros_like(getval(x))) * doubt


def _kept(condition: np.ndarray) -> np.ndarray:
    return condition if _here.ensemble is None else _here.ensemble.kept(condition)


def _compared(nan: np.ndarray) -> None:
    if _here.ensemble is not None:
        _here.ensemble.compared |= bool(nan.any())


def _kinked(argument: np.ndarray, slope: np.ndarray, low: float, high: float) -> np.ndarray:
    if _here.ensemble is None:
        return slope
    return _here.ensemble.sided(argument, slope, low, high)


def _unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    while anp.ndim(g) > len(shape):
        g = anp.sum(g, axis=0)
    for axis, size in enumerate(shape):
        if size == 1 and anp.shape(g)[axis] != 1:
            g = anp.sum(g, axis=axis, keepdims=True)
    return g


# === choosing =============================================================================


def where(condition: Array, yes: Array, no: Array) -> Array:
    """`yes` where `condition` holds, else `no`; the branch not taken has no derivative."""
    condition = _kept(np.asarray(getval(condition)))
    _compared(np.isnan(getval(yes)) != np.isnan(getval(no)))
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
    return _standing_for(x, raw * _kept(sign), _kinked(raw, sign, -1.0, 1.0))


def positive_part(x: Array) -> Array:
    """max(x, 0). Kink at 0: every slope in [0, 1] is right."""
    raw = getval(x)
    _compared(np.isnan(raw))
    above = raw > 0
    slope = _kinked(raw, above.astype(raw.dtype), 0.0, 1.0)
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
    _compared(np.isnan(lead))
    return _kinked(lead, (lead > 0).astype(lead.dtype), 0.0, 1.0) != 0


def largest(x: Array) -> Array:
    """max over the last axis. Kink where several are the largest: any one of them may be it.

    The largest of none is -inf.
    """
    raw = getval(x)
    _compared(np.isnan(raw))
    if not raw.shape[-1]:
        return np.full_like(raw, -np.inf, shape=raw.shape[:-1])
    top = np.max(raw, axis=-1, keepdims=True)
    first = np.arange(raw.shape[-1]) == np.argmax(raw, axis=-1)[..., None]
    second = np.max(np.where(first, np.full_like(raw, -np.inf), raw), axis=-1, keepdims=True)
    lead = _lead(raw, np.where(first, second, top))  # of each over the best of the others
    chosen = _kinked(lead, first.astype(raw.dtype), 0.0, 1.0)
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
    return _standing_for(x, np.where(_kept(raw < floor), floor, raw), np.ones_like(raw))


def any_slope(x: Array, undecided: Array) -> Array:
    """x; where `undecided` holds its derivative is left open: every slope in [0, 1] is right."""
    if not isbox(x):
        return x
    raw = getval(x)
    distance = np.where(_kept(np.asarray(getval(undecided))), np.zeros_like(raw), np.ones_like(raw))
    # The moved members take the second side: what is open is not known to any precision.
    return _standing_for(x, raw, _kinked(distance, np.ones_like(raw), 1.0, 0.0))


def by_convention(x: Array, value: float, undefined: np.ndarray) -> Array:
    """x; where it is undefined the value that is agreed on, and nothing is asked of the slope.

    The value may be nan: this is how a definition says that its result is nan for valid numbers.
    """
    raw, undefined = getval(x), _kept(np.asarray(getval(undefined)))
    if np.isnan(value) and _here.ensemble is not None:
        _here.ensemble.stated.append(np.broadcast_to(undefined, raw.shape)[0])
    agreed = np.where(undefined, np.full_like(raw, value), raw)
    return _standing_for(x, agreed, np.where(undefined, np.full_like(raw, np.nan), 1))


def cancelled(x: Array) -> Array:
    """0, as the sum of x and -x: its derivative is off by the rounding of a slope of 1."""
    ones = np.ones_like(getval(x))
    return _standing_for(x, np.zeros_like(ones), rounded(ones) - ones)


# === classes ==============================================================================


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
    if _here.ensemble is None:
        return added
    members = np.zeros(_here.ensemble.size, bool)
    members[_here.ensemble.rounding] = _HALF
    return _where(_here.ensemble.column(members, getval(added).ndim), added[:1], added)


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


# === lengths ==============================================================================


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
    if _here.ensemble is not None:
        zero = _kept(zero)
        zero[2:] |= np.all(_here.ensemble.either(raw), axis=-1)
        _here.ensemble.tips.append(np.asarray(zero.any(axis=0)))
    power = _where(zero, anp.ones_like(power), power)
    root = sqrt(power) if p == 2 else rounded(power ** constant(1 / p, like=power))
    return _where(zero, total(absolute(x)), root)


# === products and logarithms ==============================================================


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
    cut = _kept(np.log(raw) < lowest)
    zero, one = np.zeros_like(raw), np.ones_like(raw)
    x = any_slope(x, getval(held) & ~cut)
    slope = _kinked(np.where(cut, zero, one), zero, 2.0**1000, 0.0)
    floor = _standing_for(x, np.full_like(raw, lowest), slope)
    return _where(cut, floor, log(_where(cut, one, x)))


def complement(p: Array) -> Array:
    """1 - p: the probability of the other outcome."""
    return rounded(1 - p)


def sqrt(x: Array) -> Array:
    """Square root."""
    return rounded(anp.sqrt(x))


def softplus(x: Array) -> Array:
    """log(1 + eˣ), without overflow; beyond `LINEAR` x itself is as right."""
    return rounded(_or(_softplus(x), x, getval(x) > LINEAR)) + _by_logarithm(x)


@primitive
def _softplus(x: Array) -> Array:
    return np.maximum(x, np.zeros_like(x)) + np.log1p(np.exp(-np.abs(x)))


defvjp(_softplus, lambda ans, x: lambda g: g * sigmoid(x))


def _by_logarithm(x: Array) -> Array:
    """0, whose slope is what σ(x) is off by when it is taken as exp(x - softplus(x))."""
    raw = getval(x)
    if _here.ensemble is None:
        return np.zeros_like(raw)
    # Further on the softplus is x itself, exactly.
    near = raw < -np.log(_here.ensemble.unit)
    slope = np.where(near, _softplus(raw) * _sigmoid(raw), np.zeros_like(raw))
    return _standing_for(x, np.zeros_like(raw), rounded(slope) - slope)


def minus_log_sigmoid(x: Array) -> tuple[Array, Array]:
    """-log σ(x) and -log(1 - σ(x)), which is x more; beyond `LINEAR` |x| and 0 are as right."""
    raw = getval(x)
    infinite = np.isinf(raw)
    if _exactly() and infinite.any():  # x more than inf is nan
        finite = minus_log_sigmoid(_where(infinite, np.zeros_like(raw), x))
        limits = (softplus(-x), softplus(x))
        return _where(infinite, limits[0], finite[0]), _where(infinite, limits[1], finite[1])
    large = np.abs(raw) > LINEAR
    minus_log_p = rounded(_softplus(-x))
    # One of the two may be taken so and the other not.
    minus_log_q = rounded(_or(x + minus_log_p, x * (raw > 0), large, some=True))
    minus_log_p = _or(minus_log_p, -x * (raw < 0), large)
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

Definition = Callable[..., Array]
PI = pi
