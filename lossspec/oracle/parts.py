"""Solve a large call in parts, so that the oracle does not exhaust the memory of the machine.

The parts are slices along the axes of the unreduced loss, whose elements do not depend on one
another. The divisor of a mean is computed for the whole call first. A gradient that several parts
contribute to, such as that of a weight of the layer, is summed over them.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import product
from typing import Any

import numpy as np

from lossspec.cases.axes import axes_of, part_along, separable
from lossspec.cases.case import Case
from lossspec.dtypes import Extended, precision
from lossspec.errors import ArgumentError, OutOfRoom
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.expected import Expected, GradientTerms, Whole
from lossspec.oracle.solver import check_defined, counts, solve
from lossspec.spec.loss import Loss

Index = tuple[slice, ...]

#: The most bytes that one part may take, estimated from a small part.
PART_BYTES = 2**26
#: A call is solved in one piece if its definition makes at most this many numbers.
PIECE_NUMBERS = 2**21
#: The most numbers that the definition may make for a part that cannot be cut any further.
LARGEST_NUMBERS = 2**26


@dataclass(frozen=True)
class GradientPart:
    """The gradient of a part of a tensor.

    Attributes:
        name: The tensor.
        index: The slices of the tensor that make the part.
        bounded: The gradient with its budget; None if the loss is a mean of no elements.
        ignored: Which numbers of the part matter to ignored elements of the loss only.
        whole: The call.
    """

    name: str
    index: Index
    bounded: Bounded | None
    ignored: np.ndarray
    whole: Whole


class Solution:
    """The right answer of a call of any size: in one piece, or part by part.

    A call is cut into parts if its definition makes more than `PIECE_NUMBERS` numbers. Reading the
    answer raises ArgumentError if even the smallest part makes more than `LARGEST_NUMBERS`.

    Attributes:
        loss: The spec.
        case: The call.
        sizes: The size of each axis by name.
    """

    def __init__(self, loss: Loss, case: Case) -> None:
        self.loss, self.case = loss, case
        self.sizes = case.axis_sizes(loss)
        self._answer: Expected | None = None

    @property
    def expected(self) -> Expected:
        """The answer; it has no derivatives if the call was solved in parts."""
        if self._answer is None:
            for _ in self.gradients(()):
                pass
        assert self._answer is not None
        return self._answer

    def gradients(self, names: Sequence[str]) -> Iterator[GradientPart]:
        """Yield the gradients of tensors part by part, and solve the values on the way.

        Args:
            names: The tensors.

        Raises:
            ArgumentError: The call is too large to be solved.
        """
        if not self.cut:
            self._answer = self._in_one_piece
            for name in names:
                yield _part(self._in_one_piece, name, _everything(self.case, name))
        elif names or self._answer is None:
            yield from self._in_parts(names)

    @cached_property
    def _in_one_piece(self) -> Expected:
        room = PIECE_NUMBERS if self._axes else LARGEST_NUMBERS
        expected = solve(self.loss, self.case, room=room)
        check_defined(self.loss, expected)
        return expected

    @property
    def _axes(self) -> list[str]:
        """The axes along which the call may be cut, the longest axis first."""
        shape, coupled = self.case.shape, self.loss.coupled_axis(self.case.shape)
        axes = [axis for axis in shape.result if self.sizes[axis] > 1 and axis != coupled]
        if self.loss.form(self.case.form).settle is not None:  # it may couple the other axes
            axes = [a for a in axes if a == self.loss.batch and separable(self.loss, self.case)]
        return sorted(axes, key=lambda axis: -self.sizes[axis])

    @cached_property
    def cut(self) -> Mapping[str, int]:
        """For each axis that the call is cut along, the length of a part; empty for one piece."""
        try:
            _ = self._in_one_piece
        except OutOfRoom:
            pass
        else:
            return {}
        axes: list[str] = []
        piece = self.case
        for axis in self._axes:
            axes.append(axis)
            piece = part_along(self.loss, piece, axis, slice(1), alone=True)
            try:
                taken = _measured(self.loss, piece)
            except OutOfRoom:
                continue
            return self._lengths(axes, piece, taken)
        raise ArgumentError(self._too_large())

    def _lengths(self, axes: list[str], piece: Case, taken: float) -> dict[str, int]:
        """Return how long the parts may be along each axis.

        Args:
            axes: The axes that the call is cut along.
            piece: A part of length 1 along each of these axes.
            taken: The bytes that solving this part takes.
        """
        last = axes[-1]
        # In so small a part the fixed cost of a call dominates, so measure a longer one.
        few = min(self.sizes[last], max(1, int(PART_BYTES / 8 // taken)))
        if few > 1:
            for axis in axes:
                length = few if axis == last else 1
                first = self.case if axis == axes[0] else piece
                piece = part_along(self.loss, first, axis, slice(length), alone=True)
            taken = _measured(self.loss, piece) / few
        left = max(1, int(PART_BYTES // taken))
        lengths = {}
        for axis in reversed(axes):
            lengths[axis] = min(self.sizes[axis], left)
            left = max(1, left // lengths[axis])
        return lengths

    def _too_large(self) -> str:
        shapes = ", ".join(f"{n} {list(array.shape)}" for n, array in self.case.tensors.items())
        least = LARGEST_NUMBERS * np.dtype(Extended).itemsize / 2**30
        why = (
            "even one element of its unreduced loss"
            if self._axes
            else "it cannot be cut into parts, and all of it"
        )
        return (
            f"{self.loss.name} is too large for the oracle with {shapes}: {why} takes more than "
            f"{least:.0f} GiB of memory; pass smaller tensors"
        )

    def _parts(self) -> Iterator[tuple[dict[str, slice], Case]]:
        starts = [range(0, self.sizes[axis], length) for axis, length in self.cut.items()]
        for first in product(*starts):
            where = {
                axis: slice(start, min(start + length, self.sizes[axis]))
                for start, (axis, length) in zip(first, self.cut.items(), strict=True)
            }
            case = reduce(
                lambda case, axis: part_along(self.loss, case, axis, where[axis], alone=True),
                where,
                self.case,
            )
            yield where, case

    def _in_parts(self, names: Sequence[str]) -> Iterator[GradientPart]:
        whole, joined = self._whole, _Joined(tuple(self.sizes[a] for a in self.case.shape.result))
        sums = {name: _Sum(self.case.tensors[name].shape) for name in names if self._shared(name)}
        last: Expected | None = None
        for where, case in self._parts():
            last = solve(self.loss, case, whole=whole, gradients=bool(names))
            check_defined(self.loss, last)
            joined.add(self._index(self.case.shape.result, where), last)
            for name in names:
                index = self._index(self._axes_of(name), where, self.case.tensors[name].shape)
                if name in sums:
                    sums[name].add(index, _terms(last, name), _ignored(last, name))
                else:
                    yield _part(last, name, index)
        assert last is not None
        self._answer = joined.answer(self.case, whole, last)
        for name, total in sums.items():
            terms = total.terms
            bounded = None if terms is None else _without(last.summed(name, terms), total.ignored)
            yield GradientPart(
                name, _everything(self.case, name), bounded, total.ignored, last.whole
            )

    @cached_property
    def _whole(self) -> Whole:
        loop = tuple(self.sizes[axis] for axis in self.case.shape.result)
        every, counted = np.zeros(loop, Extended), np.zeros(loop, bool)
        for where, case in self._parts():
            index = self._index(self.case.shape.result, where)
            every[index], counted[index] = counts(self.loss, case)
        known = precision(self.case.dtype)
        mean = self.loss.form(self.case.form).mean
        return Whole(self.case, every, counted, known, self.case.parts(self.loss), mean)

    def _axes_of(self, name: str) -> tuple[str, ...]:
        form, ndim = self.loss.form(self.case.form), self.case.tensors[name].ndim
        return axes_of(self.loss, form, self.case.shape, name, ndim)

    def _shared(self, name: str) -> bool:
        """Return whether several parts contain the same numbers of a tensor."""
        sizes = dict(zip(self._axes_of(name), self.case.tensors[name].shape, strict=True))
        return any(sizes.get(axis, 1) == 1 for axis in self.cut)

    def _index(
        self, axes: Sequence[str], where: Mapping[str, slice], shape: Sequence[int] | None = None
    ) -> Index:
        sizes = [self.sizes[axis] for axis in axes] if shape is None else shape
        return tuple(
            where.get(axis, slice(None)) if size > 1 else slice(None)
            for axis, size in zip(axes, sizes, strict=True)
        )


class _Joined:
    """The values of the parts, joined to those of the whole call."""

    FIELDS = ("losses", "budget", "counts", "shares", "counted", "stated")

    def __init__(self, shape: tuple[int, ...]) -> None:
        kinds = dict.fromkeys(self.FIELDS[:4], Extended) | dict.fromkeys(self.FIELDS[4:], bool)
        self.arrays: dict[str, Any] = {name: np.zeros(shape, kind) for name, kind in kinds.items()}
        self.compared = False

    def add(self, index: Index, part: Expected) -> None:
        for name, array in self.arrays.items():
            array[index] = getattr(part, name)
        self.compared |= part.compared

    def answer(self, case: Case, whole: Whole, part: Expected) -> Expected:
        return replace(
            part,
            case=case,
            whole=whole,
            derivatives={},
            compared=self.compared,
            _known={},
            **self.arrays,
        )


class _Sum:
    """The sum over the parts of the gradient of a tensor that they share."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        zeros = [np.zeros(shape, Extended) for _ in range(5)]
        self.sums: GradientTerms | None = GradientTerms(
            exact=zeros[0], low=zeros[1], high=zeros[2], budget=zeros[3], size=zeros[4], terms=0.0
        )
        self.summed = np.zeros(shape)
        self.ignored = np.ones(shape, bool)

    def add(self, index: Index, terms: GradientTerms | None, ignored: np.ndarray) -> None:
        self.ignored[index] &= ignored
        if terms is None or self.sums is None:
            self.sums = None
            return
        with np.errstate(all="ignore"):
            for name in ("exact", "low", "high", "budget", "size"):
                getattr(self.sums, name)[index] += getattr(terms, name)
        self.summed[index] += terms.terms

    @property
    def terms(self) -> GradientTerms | None:
        """The sums over all parts, with the largest count of terms for every number."""
        return self.sums and replace(self.sums, terms=float(self.summed.max(initial=0)))


def _measured(loss: Loss, case: Case) -> float:
    """Return the peak of memory, in bytes, of solving a small part."""
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        expected = solve(loss, case, room=LARGEST_NUMBERS)
        for name in expected.derivatives:
            _terms(expected, name)
        return float(max(1, tracemalloc.get_traced_memory()[1] - before))
    finally:
        if not traced:
            tracemalloc.stop()


def _terms(expected: Expected, name: str) -> GradientTerms | None:
    case = expected.case
    return expected.terms(name, case.reduction, case.upstream(case.reduction))


def _part(expected: Expected, name: str, index: Index) -> GradientPart:
    """Return the gradient of one tensor, with ignored rows open: not judged."""
    terms, ignored = _terms(expected, name), _ignored(expected, name)
    bounded = None if terms is None else _without(expected.summed(name, terms), ignored)
    return GradientPart(name, index, bounded, ignored, expected.whole)


def _without(bounded: Bounded, ignored: np.ndarray) -> Bounded:
    return replace(bounded, budget=np.where(ignored, np.inf, bounded.budget))


def _ignored(expected: Expected, name: str) -> np.ndarray:
    shape = expected.case.tensors[name].shape
    if expected.counted.all():
        return np.zeros(shape, bool)
    return expected.ignored(name, shape)


def _everything(case: Case, name: str) -> Index:
    return (slice(None),) * case.tensors[name].ndim
