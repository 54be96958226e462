"""The error model: evaluate a definition on perturbed copies of a case.

Axis 0 of every array counts the members of an *ensemble*. Member 0 is the case itself; the others
are the same case with one input or one rounding perturbed. How far the result moves shows how far
rounding may take a correct implementation. The literature calls this Monte Carlo arithmetic
(CESTAC, MCA).

The members come in this order:

1. the case itself;
2. the case with every input moved by one ulp towards 0;
3. members with one perturbed input, or one pattern of perturbed inputs, each;
4. `ROUNDING_MEMBERS` in which the result of every word (`lossspec.maths.words`) is perturbed;
5. `SIDES` that differ in the one-sided derivative that they take at a kink.

Every perturbation has the relative size `Ensemble.step`. The oracle scales the changes of the
result back to one unit roundoff.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from autograd.tracer import getval

from lossspec.errors import OutOfRoom
from lossspec.thresholds import EXTENDED_STEP, STEP, UNIT_STEP

Array = Any  # an ndarray, or the box that autograd traces it with

#: How many members perturb the result of each word.
ROUNDING_MEMBERS = 8
#: How many members, the last ones, differ in the one-sided derivatives that they take at kinks.
SIDES = 6
#: How many kinks of a definition, the first ones, choose their sides independently.
LISTED = 4


def _signs(*twists: np.ndarray) -> np.ndarray:
    """Return sign patterns for the rounding members: the directions in which results are rounded.

    The eight patterns of one twist are orthogonal. If results rounded in these patterns are added,
    then the error in some member is at least the root of the sum of their squared errors. Any two
    patterns, also of different twists, agree in at most three quarters of the members.

    Args:
        *twists: Bit patterns over the rounding members, each of shape (ROUNDING_MEMBERS,). Each
            twist flips the signs of eight patterns.

    Returns:
        Signs ±1, of shape (8 · number of twists, ROUNDING_MEMBERS).
    """
    rows = [
        (way & 1) * _LOW ^ (way >> 1 & 1) * _MIDDLE ^ (way >> 2) * _HIGH ^ twist
        for twist in twists
        for way in range(ROUNDING_MEMBERS)
    ]
    return 1.0 - 2 * np.array(rows)


_LOW, _MIDDLE, _HIGH = ((np.arange(ROUNDING_MEMBERS) >> bit) & 1 for bit in range(3))
_PAIRS = (_LOW & _MIDDLE, _MIDDLE & _HIGH, _LOW & _HIGH)
#: The directions in which successive words of a definition are rounded.
_SIGNS = _signs(0 * _LOW, *_PAIRS)
#: The directions for elements of one result that are rounded independently; none is in `_SIGNS`.
_SIGNS_APART = _signs(_PAIRS[0] ^ _PAIRS[1], _PAIRS[1] ^ _PAIRS[2], _PAIRS[2] ^ _PAIRS[0])
#: Half of the rounding members, in a pattern that is in neither table.
HALF = np.bitwise_xor.reduce(_PAIRS).astype(bool)


def step_of(unit: float) -> float:
    """Return the relative size of every perturbation for a dtype with this unit roundoff.

    It is far above the rounding of longdouble, so that changes of the result are not noise. It is
    at most a few unit roundoffs: functions that saturate, such as the softmax of large logits, do
    not change in proportion to a large perturbation.
    """
    return min(STEP, max(UNIT_STEP * unit, EXTENDED_STEP * float(np.finfo(np.longdouble).eps)))


@dataclass
class Ensemble:
    """The members of axis 0 while a definition is evaluated, and its records of that evaluation.

    The module docstring lists the members. At a kink, the last member but one takes the lowest
    one-sided derivative and the last member the highest. The other members of `SIDES` mix them.
    """

    #: How many members there are.
    size: int
    #: Unit roundoff of the case's dtype, and its smallest subnormal.
    unit: float
    smallest: float
    #: `lossspec.thresholds.SLACK`.
    slack: float
    #: Whether every member takes its own branches instead of those of member 0. A branch that
    #: rounding may switch then shows as a large change.
    free: bool = False
    #: Relative size of every perturbation.
    step: float = STEP
    #: How many numbers may be made, and how many have been made so far.
    room: float = float("inf")
    numbers: int = field(default=0)
    #: Factor of the absolute part of a rounding.
    absolute: float = 1.0
    #: How many results have been rounded so far, and how many functions with a kink were called.
    words: int = field(default=0)
    kinks: int = field(default=0)
    #: For each function with a kink, a mask of the elements where the case lies on the kink.
    meetings: list[np.ndarray] = field(default_factory=list)
    #: For each norm, a mask of the elements where it is 0 and so has no derivative.
    tips: list[np.ndarray] = field(default_factory=list)
    #: Whether a comparison met a nan; an implementation may lose the nan there.
    compared: bool = False
    #: Masks of the elements that the definition declares to be nan, with `by_convention`.
    stated: list[np.ndarray] = field(default_factory=list)
    #: How many axes behind the member axis count elements of the loss. Their elements are rounded
    #: alike, so that a budget does not depend on the place in the batch.
    loop_axes: int = 0

    @property
    def rounding(self) -> slice:
        """The members in which the result of each word is perturbed."""
        return slice(self.size - SIDES - ROUNDING_MEMBERS, self.size - SIDES)

    def fresh(self) -> Ensemble:
        """Return an ensemble of the same members in which nothing has been computed yet."""
        return Ensemble(
            self.size,
            self.unit,
            self.smallest,
            self.slack,
            self.free,
            self.step,
            self.room,
            self.numbers,
            loop_axes=self.loop_axes,
        )

    def take(self, numbers: int) -> None:
        """Count `numbers` new numbers, and raise OutOfRoom if the count exceeds `room`."""
        self.numbers += numbers
        if self.numbers > self.room:
            raise OutOfRoom(f"the definition makes more than {self.room:,.0f} numbers")

    def column(self, values: np.ndarray, ndim: int) -> np.ndarray:
        """Reshape one number for each member, so that it broadcasts over the other axes.

        Args:
            values: Numbers of shape (size,).
            ndim: How many axes the result has, the member axis included.
        """
        return values.reshape((self.size,) + (1,) * (ndim - 1))

    def rounded(
        self,
        x: Array,
        steady: bool = False,
        times: float = 1.0,
        apart: bool = False,
        underflows: bool = True,
        known_zero: bool = False,
    ) -> Array:
        """Perturb a result by one rounding in the rounding members.

        The perturbation is relative, and absolute near zero, as the roundings of a dtype are.

        Args:
            x: A result, with the members on axis 0.
            steady: Round in the same direction each time, for a chain of operations whose errors
                add up.
            times: Round by this many unit roundoffs.
            apart: Round the elements of the last axis independently, for numbers whose differences
                matter.
            underflows: Add the absolute part. A sum needs none: it is exact where it is subnormal.
            known_zero: Leave results that are 0 as they are: no rounding leads away from 0 there.
        """
        raw = getval(x)
        self.take(raw.size)
        apart = apart and raw.ndim > 1 + self.loop_axes
        shape = (*(1,) * (raw.ndim - 2), raw.shape[-1]) if apart else (1,) * (raw.ndim - 1)
        ways = _SIGNS[self.words % len(_SIGNS)]
        if steady:
            ways = 2.0 * HALF - 1
        elif apart:
            ways = _SIGNS_APART[(self.words + np.arange(raw.shape[-1])) % len(_SIGNS_APART)].T
        signs = np.zeros((self.size, *shape), raw.dtype)
        signs[self.rounding] = ways.reshape(ROUNDING_MEMBERS, *shape)
        self.words += 1
        size = np.abs(raw)
        floor: Any = self.smallest / self.unit * self.absolute
        if not underflows:
            floor = 0.0
        elif known_zero:
            floor = np.where(size == 0, 0.0, floor)
        moves = (signs * (times * self.step)) * (np.where(np.isfinite(size), size, 0) + floor)
        return x + moves

    def doubt(self, ndim: int, some: bool) -> np.ndarray:
        """Return the factor by which an accepted difference is added in each member.

        `x + (y - x) * doubt` moves x in the rounding members. The oracle scales that move to a
        budget of twice the distance from x to y.

        Args:
            ndim: How many axes the result has, the member axis included.
            some: Whether to move only half of the rounding members.

        Returns:
            Factors of shape (size, 1, ..., 1); 0 outside the rounding members.
        """
        counts = np.zeros(self.size)
        counts[self.rounding] = 2 * self.step / (self.slack * self.unit)
        if some:
            counts[self.rounding] *= HALF
        return self.column(counts, ndim)

    def kept(self, condition: np.ndarray) -> np.ndarray:
        """Return a condition with the branches of member 0 in every perturbed member.

        Member 1 keeps its own branches. In a free ensemble all members do.

        Args:
            condition: A mask with an axis 0 of size 1 or `size`.
        """
        self.take(self.size * math.prod(condition.shape[1:]))
        condition = np.array(np.broadcast_to(condition, (self.size, *condition.shape[1:])))
        if not self.free:
            condition[2:] = condition[:1]
        return condition

    def sided(
        self, argument: np.ndarray, derivative: np.ndarray, low: float, high: float
    ) -> np.ndarray:
        """Return the derivative of a function with a kink where `argument` is 0.

        If rounding may put `argument` on either side of 0, then the last members take different
        one-sided derivatives. The perturbed members take `high`, as does the last member, with
        which they are compared.

        Args:
            argument: A number for each element, 0 at the kink.
            derivative: The derivative away from the kink.
            low: The one-sided derivative that the last member but one takes, usually the lowest.
            high: The one-sided derivative that the last member takes, usually the highest.
        """
        derivative = self.kept(derivative)
        either, sides = self.met(argument)
        if not self.free:
            derivative[2:] = np.where(either, high, derivative[0])
        for i, higher in enumerate(sides, start=-SIDES):
            derivative[i] = np.where(either, high if higher else low, derivative[0])
        return derivative

    def met(self, argument: np.ndarray) -> tuple[np.ndarray, tuple[bool, ...]]:
        """Record a function with a kink where `argument` is 0.

        Args:
            argument: A number for each element, 0 at the kink.

        Returns:
            A mask of the elements where rounding may put `argument` on either side of 0, without
            the member axis. For each of the last `SIDES` members, whether it takes the high side.
        """
        either = self.either(argument)
        self.meetings.append(either)
        # Any two of the first `LISTED` kinks may meet: the members cover all four combinations.
        odd, late, more = self.kinks & 1, self.kinks & 2, self.kinks >= LISTED
        mixed = (more or odd, more or not odd, more or late, more or not late)
        self.kinks += 1
        return either, (*map(bool, mixed), False, True)

    def crowded(self, loop: tuple[int, ...]) -> np.ndarray:
        """Return where more kinks meet in an element of the loss than `SIDES` can tell apart."""
        counts, late = np.zeros(loop, int), np.zeros(loop, bool)
        for kink, either in enumerate(self.meetings):
            meets = either.any(axis=tuple(range(len(loop), either.ndim)))
            counts += meets
            late |= meets & (kink >= LISTED)
        return np.asarray((counts > 2) | (late & (counts > 1)))

    def pointed(self, loop: tuple[int, ...]) -> np.ndarray:
        """Return which elements of the loss depend on a norm without a second derivative."""
        pointed = np.zeros(loop, bool)
        for tip in self.tips:
            pointed |= tip.any(axis=tuple(range(len(loop), tip.ndim)))
        return pointed

    def stated_nan(self, loop: tuple[int, ...]) -> np.ndarray:
        """Return which elements of the loss the definition declares to be nan."""
        stated = np.zeros(loop, bool)
        for nan in self.stated:
            each = np.broadcast_to(nan, (1,) * (len(loop) - nan.ndim) + nan.shape)
            stated |= each.any(axis=tuple(range(len(loop), each.ndim)))
        return stated

    def either(self, argument: np.ndarray) -> np.ndarray:
        """Return where rounding may put `argument` on either side of 0."""
        with np.errstate(invalid="ignore"):
            moves = np.abs(argument - argument[:1])
            moved = moves[2 : self.rounding.start].sum(0) + moves[self.rounding].max(0)
            reach = moved * (self.slack * self.unit / self.step)
            return np.asarray(np.abs(argument[0]) <= reach + self.slack * self.smallest)


class _Here(threading.local):
    ensemble: Ensemble | None = None


current = _Here()


@contextmanager
def ensemble(members: Ensemble) -> Iterator[None]:
    """Evaluate words in an ensemble: axis 0 of every array counts its members."""
    outer, current.ensemble = current.ensemble, members
    try:
        yield
    finally:
        current.ensemble = outer


def rounded(
    x: Array,
    steady: bool = False,
    times: float = 1.0,
    apart: bool = False,
    underflows: bool = True,
    known_zero: bool = False,
) -> Array:
    """Return `x` with one rounding in the current ensemble; arguments as in `Ensemble.rounded`."""
    if current.ensemble is None:
        return x
    return current.ensemble.rounded(x, steady, times, apart, underflows, known_zero)


def kept(condition: np.ndarray) -> np.ndarray:
    """Return the branches of member 0 for every perturbed member; see `Ensemble.kept`."""
    return condition if current.ensemble is None else current.ensemble.kept(condition)


def compared(nan: np.ndarray) -> None:
    """Note in the current ensemble whether any comparison met a nan: `nan` is a mask of those."""
    if current.ensemble is not None:
        current.ensemble.compared |= bool(nan.any())


def kinked(argument: np.ndarray, derivative: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return a derivative with both one-sided values where `argument` may be 0; see `sided`."""
    if current.ensemble is None:
        return derivative
    return current.ensemble.sided(argument, derivative, low, high)


def error_of(x: Array, times: float = 1.0, apart: bool = False) -> Array:
    """Return the error that rounding `x` adds in each member of the current ensemble.

    Args:
        x: Numbers, of which those that are not finite have no error.
        times: As in `Ensemble.rounded`.
        apart: As in `Ensemble.rounded`.
    """
    raw = getval(x)
    finite = np.where(np.isfinite(raw), raw, np.zeros_like(raw))
    return rounded(finite, times=times, apart=apart, known_zero=True) - finite
