"""The type of the numbers that a definition computes with: each operator rounds its result."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import ml_dtypes
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.tracer import getval, isbox

from lossspec.maths.elementwise import array_like, constant
from lossspec.maths.ensemble import Array, current, kept, rounded
from lossspec.maths.foreign import OwnWordsOnly, advice
from lossspec.maths.primitives import divided, power
from lossspec.maths.sums import matmul


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


class Number(OwnWordsOnly):
    """An array of real numbers whose operators round, as those of a dtype do.

    `define` gets its tensors as numbers, so the textbook formula has the right budget without any
    word about rounding. A float that not every dtype can hold is rounded where it meets a number.

    Comparisons give masks: plain arrays of truth values, which `&`, `|` and `~` combine. Use them
    in `where`, or as factors of 0 and 1; their sum counts. `x @ y` is `matmul(x, y)`.

    In a power either operand, or both, may be numbers. 0⁰ is 1, and a negative base needs whole
    exponents.

    Derivative: that of the operator. By the exponent of a base of 0 it is 0, and of a negative
    base nan. Masks have none.

    Rounding: the result of each operator, once. Negation, comparisons, adding 0 and multiplying by
    a power of 2 are exact. The derivatives of products, quotients and powers round once more.

    Attributes:
        raw: The array, or autograd's box around it, with the members of the ensemble in axis 0.
    """

    __slots__ = ("raw",)
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

    def __matmul__(self, other: Any) -> Number:
        return Number(matmul(self.raw, _operand(other, self.raw)))

    def __rmatmul__(self, other: Any) -> Number:
        return Number(matmul(_operand(other, self.raw), self.raw))

    def __lt__(self, other: Any) -> Any:
        return _compare(operator.lt, self, other)

    def __le__(self, other: Any) -> Any:
        return _compare(operator.le, self, other)

    def __gt__(self, other: Any) -> Any:
        return _compare(operator.gt, self, other)

    def __ge__(self, other: Any) -> Any:
        return _compare(operator.ge, self, other)

    def __eq__(self, other: object) -> Any:
        return _compare(operator.eq, self, other)

    def __ne__(self, other: object) -> Any:
        return _compare(operator.ne, self, other)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **options: Any) -> Any:
        """Compute an operator between an array of numpy and a number; refuse other functions."""
        if ufunc not in _OPERATORS or method != "__call__" or options:
            raise TypeError(
                f"numpy.{ufunc.__name__} does not take the numbers of define;"
                f" {advice(ufunc.__name__)}"
            )
        x, y = operands
        operate, reflected = _OPERATORS[ufunc]
        return operate(x, y) if isinstance(x, Number) else getattr(y, reflected)(x)


#: The operators of numpy: what to call if the number stands left, and if it stands right.
_OPERATORS: dict[np.ufunc, tuple[Callable[[Any, Any], Any], str]] = {
    np.add: (operator.add, "__radd__"),
    np.subtract: (operator.sub, "__rsub__"),
    np.multiply: (operator.mul, "__rmul__"),
    np.true_divide: (operator.truediv, "__rtruediv__"),
    np.power: (operator.pow, "__rpow__"),
    np.matmul: (operator.matmul, "__rmatmul__"),
    np.less: (operator.lt, "__gt__"),
    np.less_equal: (operator.le, "__ge__"),
    np.greater: (operator.gt, "__lt__"),
    np.greater_equal: (operator.ge, "__le__"),
    np.equal: (operator.eq, "__eq__"),
    np.not_equal: (operator.ne, "__ne__"),
}


def _compare(comparison: Callable[[Any, Any], Any], x: Number, y: Any) -> Any:
    """Return a mask; the perturbed members keep the branches of member 0, as in `where`."""
    return kept(np.asarray(comparison(getval(x.raw), getval(array_of(y)))))


def _operate(operation: Callable[[Any, Any], Any], x: Any, y: Any) -> Number:
    like = (x if isinstance(x, Number) else y).raw
    x_raw, y_raw = _operand(x, like), _operand(y, like)
    if operation is operator.pow and (np.ndim(getval(y_raw)) or not isinstance(x, Number)):
        result = power(array_like(x_raw, like), array_like(y_raw, like))
    elif operation is operator.truediv:
        result = divided(x_raw, y_raw)
    else:
        result = operation(x_raw, y_raw)
    return Number(result if _exact(operation, x, y) else _round(operation, result))


def _operand(x: Any, like: Array) -> Any:
    if isinstance(x, Number):
        return x.raw
    if isinstance(x, (float, np.floating)) and np.isfinite(x):
        return constant(float(x), like)
    if isinstance(x, np.ndarray):  # masks, labels and other plain arrays take the number's dtype
        return x.astype(getval(like).dtype)
    return int(x) if isinstance(x, (np.integer, np.bool_)) else x


def _exact(operation: Callable[[Any, Any], Any], x: Any, y: Any) -> bool:
    """Return whether an operation adds 0 or changes the exponent only, which rounds nothing."""
    if operation is operator.pow:
        return not isinstance(y, Number) and np.ndim(y) == 0 and y == 1
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
    """Turn a function of arrays into one of numbers.

    It returns numbers, unless it is given plain floating arrays only. Two parameters that a mask
    chooses from are numbers, and so is the mean of a mask.
    """

    @wraps(function)
    def of_numbers(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        plain = not any(isinstance(x, Number) for x in given)
        result = function(*map(array_of, args), **{name: array_of(x) for name, x in kwargs.items()})
        if plain and (any(map(_is_floating, given)) or not np.ndim(getval(result))):
            return result
        if isinstance(result, tuple):
            return tuple(map(Number, result))
        return result if getval(result).dtype.kind in "biu" else Number(result)

    return of_numbers


def _is_floating(x: Any) -> bool:
    return isbox(x) or (isinstance(x, np.ndarray) and x.dtype.kind not in "biu")


def array_of(x: Any) -> Any:
    """Return the array of a number, and anything else as it is."""
    return x.raw if isinstance(x, Number) else x
