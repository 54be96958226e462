"""The type of the numbers that a definition computes with: each operator rounds its result."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import ml_dtypes
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from lossspec.maths import words
from lossspec.maths.ensemble import Array, current, rounded


@primitive
def _rounding(x: Array) -> Array:
    """Return the result of an operation rounded once; round the cotangent in backward too."""
    return rounded(x, known_zero=True, apart=True)


defvjp(_rounding, lambda ans, x: lambda g: _rounding(g))


def _round(operation: Callable[[Any, Any], Any], x: Array) -> Array:
    """Round the result of an operation.

    A sum is exact where it is subnormal, and its cotangent reaches both terms as it is.
    """
    if current.ensemble is None:
        return x
    if operation in (operator.add, operator.sub):
        return rounded(x, underflows=False, apart=True)
    return _rounding(x)


class Number:
    """An array of real numbers whose operators round, as those of a dtype do.

    `define` gets its tensors as numbers, so the textbook formula has the right budget without any
    word about rounding. A float that not every dtype can hold is rounded where it meets a number.

    Attributes:
        raw: The array, or autograd's box around it, with the members of the ensemble in axis 0.
    """

    __slots__ = ("raw",)
    __array_ufunc__ = None  # numpy's arrays and scalars leave mixed operators to this class
    __hash__ = None  # type: ignore[assignment]  # compared by element, like an array

    def __init__(self, raw: Array) -> None:
        self.raw = raw

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes; the first counts the members of the ensemble."""
        return tuple(np.shape(getval(self.raw)))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> Number:
        return Number(self.raw[index])

    def __neg__(self) -> Number:
        return Number(-self.raw)

    def __add__(self, other: Any) -> Number:
        return _operate(operator.add, self, other)

    def __radd__(self, other: Any) -> Number:
        return _operate(operator.add, other, self)

    def __sub__(self, other: Any) -> Number:
        return _operate(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Number:
        return _operate(operator.sub, other, self)

    def __mul__(self, other: Any) -> Number:
        return _operate(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Number:
        return _operate(operator.mul, other, self)

    def __truediv__(self, other: Any) -> Number:
        return _operate(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Number:
        return _operate(operator.truediv, other, self)

    def __pow__(self, exponent: Any) -> Number:
        return _operate(operator.pow, self, exponent)

    def __rpow__(self, base: Any) -> Number:
        return _operate(operator.pow, base, self)

    def __lt__(self, other: Any) -> Any:
        return getval(self.raw) < _plain(other)

    def __le__(self, other: Any) -> Any:
        return getval(self.raw) <= _plain(other)

    def __gt__(self, other: Any) -> Any:
        return getval(self.raw) > _plain(other)

    def __ge__(self, other: Any) -> Any:
        return getval(self.raw) >= _plain(other)

    def __eq__(self, other: object) -> Any:
        return getval(self.raw) == _plain(other)

    def __ne__(self, other: object) -> Any:
        return getval(self.raw) != _plain(other)


def _plain(x: Any) -> Any:
    return getval(x.raw) if isinstance(x, Number) else x


def _operate(operation: Callable[[Any, Any], Any], x: Any, y: Any) -> Number:
    like = (x if isinstance(x, Number) else y).raw
    result = operation(_operand(x, like), _operand(y, like))
    return Number(result if _exact(operation, x, y) else _round(operation, result))


def _operand(x: Any, like: Array) -> Any:
    if isinstance(x, Number):
        return x.raw
    if isinstance(x, (float, np.floating)) and np.isfinite(x):
        return words.constant(float(x), like)
    return x


def _exact(operation: Callable[[Any, Any], Any], x: Any, y: Any) -> bool:
    """Return whether an operation adds 0 or changes the exponent only, which rounds nothing."""
    if operation is operator.pow:
        return np.ndim(y) == 0 and not isinstance(y, Number) and y == 1
    if operation in (operator.add, operator.sub):
        return any(not isinstance(term, Number) and np.all(getval(term) == 0) for term in (x, y))
    factor = y if isinstance(x, Number) else x
    if isinstance(factor, Number) or (operation is operator.truediv and factor is x):
        return False
    mantissa = np.abs(np.frexp(np.asarray(getval(factor), np.float64))[0])
    return bool(np.all((mantissa == 0.5) | (mantissa == 0)))


def vector(values: Sequence[float], axes: int, real: Any) -> Number:
    """Return the numbers of a parameter along a last axis, each rounded as `constant` does.

    Args:
        values: The numbers.
        axes: How many axes of size 1 come before the last one.
        real: The floating type.
    """
    plain = np.asarray(values, real).reshape((1,) * axes + (len(values),))
    exact = [float(ml_dtypes.bfloat16(value)) == value for value in values]
    return Number(np.where(exact, plain, rounded(plain, apart=True)))


def word(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function of arrays into one of numbers."""

    @wraps(function)
    def of_numbers(*args: Any, **kwargs: Any) -> Any:
        given = any(isinstance(x, Number) for x in (*args, *kwargs.values()))
        result = function(*map(array_of, args), **{name: array_of(x) for name, x in kwargs.items()})
        if not given:
            return result
        if isinstance(result, tuple):
            return tuple(map(Number, result))
        return Number(result)

    return of_numbers


def array_of(x: Any) -> Any:
    """Return the array of a number, and anything else as it is."""
    return x.raw if isinstance(x, Number) else x
