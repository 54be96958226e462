"""The error model: evaluate a definition on perturbed copies of a case.

Axis 0 of every array counts the members of an *ensemble*. Member 0 is the case itself; the others
are the same case with one input or one rounding perturbed. How much the result changes shows how
far rounding may take a right implementation. The literature calls this Monte Carlo arithmetic
(CESTAC, MCA)."""

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

Array = Any  # an ndarray, or autograd's box around one

#: How many members stand for rounding inside the words.
ROUNDING_MEMBERS = 8
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
HALF = np.bitwise_xor.reduce(_PAIRS).astype(bool)


def step_of(unit: float) -> float:
    """Relative size of every move for a dtype of this unit roundoff.

    Far above what longdouble rounds; no further above the unit, since what saturates, such as the
    probabilities of enormous logits, does not grow with the move.
    """
    return min(STEP, max(UNIT_STEP * unit, EXTENDED_STEP * float(np.finfo(np.longdouble).eps)))


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
    #: `lossspec.thresholds.SLACK`.
    slack: float
    #: Whether every member takes its own branches: one close by shows as an enormous change.
    free: bool = False
    #: Relative size of every move.
    step: float = STEP
    #: How many numbers may be made within it, and how many have been so far.
    room: float = float("inf")
    numbers: int = field(default=0)
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
        )

    def take(self, numbers: int) -> None:
        """Count numbers that are made; OutOfRoom when there are more than `room` in all."""
        self.numbers += numbers
        if self.numbers > self.room:
            raise OutOfRoom(f"more than {self.room:,.0f} numbers are needed at once")

    def column(self, values: np.ndarray, ndim: int) -> np.ndarray:
        """One number for each member, in a shape that broadcasts over the other axes."""
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
        """`x` moved by one rounding (relative and, near zero, absolute) in the rounding members.

        steady : the same way each time, for the links of a chain whose errors add up. times : as
        many roundings at once. apart : each along the last axis in a way of its own, for numbers
        whose differences count.
        """
        raw = getval(x)
        self.take(raw.size)
        apart = apart and raw.ndim > 1
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
        floor: Any = self.smallest / self.unit
        if not underflows:
            floor = 0.0
        elif known_zero:
            floor = np.where(size == 0, 0.0, floor)
        moves = (signs * (times * self.step)) * (np.where(np.isfinite(size), size, 0) + floor)
        return x + moves

    def doubt(self, ndim: int, some: bool) -> np.ndarray:
        """By how much a difference has to count in the rounding members to be within the budget."""
        counts = np.zeros(self.size)
        counts[self.rounding] = 2 * self.step / (self.slack * self.unit)
        if some:
            counts[self.rounding] *= HALF
        return self.column(counts, ndim)

    def kept(self, condition: np.ndarray) -> np.ndarray:
        """Branches of member 0 in every member that is only moved (the neighbour has its own)."""
        self.take(self.size * math.prod(condition.shape[1:]))
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


current = _Here()


@contextmanager
def ensemble(members: Ensemble) -> Iterator[None]:
    """Within it, axis 0 of every array counts the members of `members`."""
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
    """`x`, rounded in the members that stand for rounding."""
    if current.ensemble is None:
        return x
    return current.ensemble.rounded(x, steady, times, apart, underflows, known_zero)


def kept(condition: np.ndarray) -> np.ndarray:
    """Return the branches of member 0 for every member that is only perturbed."""
    return condition if current.ensemble is None else current.ensemble.kept(condition)


def compared(nan: np.ndarray) -> None:
    """Note whether a nan was compared with a number."""
    if current.ensemble is not None:
        current.ensemble.compared |= bool(nan.any())


def kinked(argument: np.ndarray, slope: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return a derivative with both one-sided values where `argument` may be 0."""
    if current.ensemble is None:
        return slope
    return current.ensemble.sided(argument, slope, low, high)
