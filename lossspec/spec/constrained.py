"""Roles that restrict a dtype, or several numbers together: masks, labels, ranks, boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lossspec.dtypes import dtype_name, precision
from lossspec.spec.roles import Positive, Role
from lossspec.thresholds import SLACK

#: How many axes a box has: its left, top, right and bottom side.
SIDES_OF_A_BOX = 4


@dataclass(frozen=True, kw_only=True)
class Temperature(Positive):
    """A number above 0 that scores are divided by or multiplied with, of moderate size."""

    style = "temperature"


@dataclass(frozen=True, kw_only=True)
class Constrained(Role):
    """A role that restricts several numbers together, or the dtype."""

    #: The axis along which the numbers are restricted together; the last axis if empty.
    along: str = ""
    #: Whether a call with numbers that break the role must raise.
    checked: bool = False

    #: Whether each number is restricted alone.
    elementwise = False
    #: Whether the order of the numbers along the axis matters.
    ordered = False

    def axis(self, axes: tuple[str, ...]) -> int | None:
        """Return the index of the axis along which the numbers are restricted together.

        Args:
            axes: The names of the axes of the tensor.

        Returns:
            The index; None if each number is restricted alone or the tensor has no such axis.
        """
        if self.elementwise or not axes:
            return None
        if not self.along:
            return len(axes) - 1
        return axes.index(self.along) if self.along in axes else None

    def holds(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return a mask of the numbers that the role allows, given the others along the axis.

        Args:
            array: The tensor.
            axis: The index that `axis` returns.
        """
        return np.asarray(np.isfinite(array.astype(np.float64)) & self.contains(array))

    def restored(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return an array near to this one that the role allows; the same array if it is allowed.

        Args:
            array: A tensor with finite numbers.
            axis: The index that `axis` returns.
        """
        return array

    def breaches(self, array: np.ndarray, axis: int | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield tensors that break the role: the breach as a clause, and the tensor.

        Args:
            array: A tensor that the role allows.
            axis: The index that `axis` returns.
        """
        yield from ()


@dataclass(frozen=True, kw_only=True)
class Mask(Constrained):
    """True or False, in dtype bool."""

    low: float = 0.0
    high: float = 1.0
    differentiable: bool = False
    dtypes: tuple[str, ...] = ("bool",)

    style = "mask"
    integer = True
    elementwise = True

    def breaches(self, array: np.ndarray, axis: int | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the mask in a floating dtype."""
        yield "a mask in float32", array.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Label(Constrained):
    """An integer label, with no axis of classes."""

    low: float = 0.0
    high: float = 9.0
    differentiable: bool = False
    dtypes: tuple[str, ...] = ("int64",)

    style = "label"
    integer = True
    elementwise = True

    def restored(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return the labels, each moved to the nearest end of the range if it lies outside."""
        return np.asarray(np.clip(array, int(self.low), int(self.high)).astype(array.dtype))

    def breaches(self, array: np.ndarray, axis: int | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield labels with one outside the range."""
        for label in (int(self.high) + 1, int(self.low) - 1):
            if array.size and np.iinfo(array.dtype).min <= label <= np.iinfo(array.dtype).max:
                wrong = array.copy()
                wrong.flat[array.size // 2] = label
                yield f"label {label} outside [{self.low:g}, {self.high:g}]", wrong


@dataclass(frozen=True, kw_only=True)
class Rank(Constrained):
    """A rank: an integer from `first` on; along its axis each rank occurs once."""

    first: int = 0
    differentiable: bool = False
    dtypes: tuple[str, ...] = ("int64",)

    style = "rank"
    integer = True

    def holds(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return which rows hold each rank once."""
        return np.broadcast_to(_same_along(array, self.restored(array, axis), axis), array.shape)

    def restored(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return the ranks of the numbers along the axis; equal numbers keep their order."""
        if axis is None:
            return np.full_like(array, self.first)
        order = np.argsort(array, axis, kind="stable")
        return np.asarray((np.argsort(order, axis) + self.first).astype(array.dtype))

    def breaches(self, array: np.ndarray, axis: int | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield ranks in which one rank occurs twice."""
        if axis is not None and array.size and array.shape[axis] > 1:
            wrong = np.moveaxis(array.copy(), axis, 0)
            wrong[0] = wrong[1]
            yield "a rank that occurs twice", np.moveaxis(wrong, 0, axis)


@dataclass(frozen=True, kw_only=True)
class UnitVector(Constrained):
    """A vector of Euclidean norm 1 along its axis, up to the rounding of the dtype."""

    style = "unit_vector"

    def holds(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return which vectors have norm 1, up to rounding."""
        x = array.astype(np.float64)
        norm = np.abs(x) if axis is None else np.sqrt((x**2).sum(axis, keepdims=True))
        return np.broadcast_to(np.abs(norm - 1) <= SLACK * _unit(array), array.shape)

    def restored(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return the vectors divided by their norms; one of norm 0 becomes the first unit vector.

        A vector of norm 1 keeps its bits.
        """
        x = np.moveaxis(array.astype(np.float64), -1 if axis is None else axis, -1)
        x = x[..., None] if axis is None else x.copy()
        if not x.shape[-1]:
            return array
        x /= np.where((top := np.abs(x).max(-1, keepdims=True)) > 0, top, 1)  # squares may overflow
        x[..., 0] += (x == 0).all(-1)
        x /= np.sqrt((x**2).sum(-1, keepdims=True))
        unit = x[..., 0] if axis is None else np.moveaxis(x, -1, axis)
        return np.where(self.holds(array, axis), array, unit.astype(array.dtype))

    def breaches(self, array: np.ndarray, axis: int | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield vectors of norm 2."""
        if array.size:
            yield "vectors of norm 2", (2 * array).astype(array.dtype)


@dataclass(frozen=True, kw_only=True)
class Box(Constrained):
    """A box (x1, y1, x2, y2) along an axis of 4, with x1 <= x2 and y1 <= y2."""

    style = "box"
    ordered = True

    def holds(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return which boxes have their corners in order."""
        return np.broadcast_to(_same_along(array, self.restored(array, axis), axis), array.shape)

    def restored(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return the boxes with each pair of sides in order."""
        x = np.moveaxis(array, axis if axis is not None else -1, -1)
        near, far = x[..., :2], x[..., 2:]
        box = np.concatenate([np.minimum(near, far), np.maximum(near, far)], -1)
        return np.asarray(np.moveaxis(box, -1, axis if axis is not None else -1))

    def breaches(self, array: np.ndarray, axis: int | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield boxes with the sides of one pair swapped."""
        x = np.moveaxis(array, axis if axis is not None else -1, -1)
        for side, name in enumerate("xy"):
            if (x[..., side] < x[..., side + 2]).any():
                wrong = x.copy()
                wrong[..., [side, side + 2]] = wrong[..., [side + 2, side]]
                back = np.moveaxis(wrong, -1, axis if axis is not None else -1)
                yield f"a box with {name}1 > {name}2", back


@dataclass(frozen=True, kw_only=True)
class Sorted(Constrained):
    """Real numbers in ascending order along their axis; equal numbers are allowed."""

    descending: bool = False

    style = "sorted"
    ordered = True

    def holds(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return which rows are in order."""
        return np.broadcast_to(_same_along(array, self.restored(array, axis), axis), array.shape)

    def restored(self, array: np.ndarray, axis: int | None) -> np.ndarray:
        """Return the numbers in order."""
        if axis is None:
            return array
        rising = np.sort(array, axis)
        return np.flip(rising, axis) if self.descending else rising

    def breaches(self, array: np.ndarray, axis: int | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield numbers in the opposite order."""
        if axis is not None and (wrong := np.flip(array, axis).copy()).tobytes() != array.tobytes():
            yield "numbers in the opposite order", wrong


def _same_along(one: np.ndarray, other: np.ndarray, axis: int | None) -> np.ndarray:
    equal = np.asarray(one == other)
    return equal if axis is None else np.asarray(equal.all(axis, keepdims=True))


def _unit(array: np.ndarray) -> float:
    return precision(dtype_name(array)).unit
