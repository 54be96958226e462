"""The errors of functions of numpy, torch and Python that a definition gives a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from lossspec.maths import words

#: The expression to use, and the foreign names that it replaces.
_FOREIGN = {
    "absolute": "abs fabs",
    "positive_part": "relu threshold",
    "minimum and maximum": "clip clamp hardtanh",
    "maximum": "clamp_min fmax",
    "minimum": "clamp_max fmin",
    "largest (over an axis) or maximum (of two)": "max amax",
    "-largest(-x) (over an axis) or minimum (of two)": "min amin",
    "argsort(x, descending=True)[..., 0]": "argmax",
    "argsort(x)[..., 0]": "argmin",
    "total": "sum nansum count_nonzero",
    "mean": "average nanmean",
    "product": "prod nanprod",
    "mean((x - mean(x)[..., None]) ** 2)": "var",
    "sqrt of the mean of squares": "std",
    "cumulative_sum": "cumsum",
    "matmul or total": "dot vdot inner mm bmm einsum tensordot",
    "matvec": "mv",
    "transposed": "transpose swapaxes t T mT permute",
    "acos": "arccos",
    "log_sum_exp": "logsumexp",
    "sigmoid": "expit",
    "minus_log_sigmoid": "logsigmoid log_expit",
    "norm": "vector_norm",
    "pairwise_distances": "cdist pdist",
    "norm(x - y, 2)": "pairwise_distance",
    "total(x * y) / (norm(x, 2) * norm(y, 2))": "cosine_similarity",
    "joined": "concatenate concat cat hstack append",
    "pick": "take gather take_along_axis choose",
    "repeated": "repeat expand broadcast_to tile",
    "x[..., None] and joined": "stack unsqueeze expand_dims",
    "x_log_x": "xlogy entr",
    "constant": "full_like ones_like zeros_like",
    "log(x) / math.log(2)": "log2 log10",
    "1 / sqrt(x)": "rsqrt",
    "x ** 2": "square",
    "x ** y": "pow power float_power",
    "1 / x": "reciprocal",
    "-x": "neg negative",
    "a & b on masks, which comparisons give": "logical_and bitwise_and",
    "a | b on masks, which comparisons give": "logical_or bitwise_or",
    "~a on masks, which comparisons give": "logical_not invert",
}
INSTEAD = {name: word for word, names in _FOREIGN.items() for name in names.split()}


def advice(name: str) -> str:
    """Return what a definition should use instead of a foreign function or method."""
    if name in INSTEAD:
        return f"use {INSTEAD[name]} (words of lossspec.maths)"
    if name in words.__all__:
        return f"use lossspec.maths.{name}"
    return f"the words of lossspec.maths are {', '.join(words.__all__)}"


def _refuse(called: str, name: str) -> NoReturn:
    raise TypeError(f"{called} does not take the numbers of define; {advice(name)}")


class OwnWordsOnly:
    """A number that only operators and the words of `lossspec.maths` take.

    Functions of numpy, torch and Python would lose its derivative or its rounding.
    """

    __slots__ = ()

    def __array_function__(
        self, func: Callable[..., Any], types: Any, args: Any, kwargs: Any
    ) -> NoReturn:
        _refuse(f"numpy.{func.__name__}", func.__name__)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> NoReturn:
        name = getattr(func, "__name__", str(func))
        _refuse(f"torch's {name}", name)

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "numpy cannot convert the numbers of define to an array; use operators and the words"
            " of lossspec.maths"
        )

    def __float__(self) -> NoReturn:
        raise TypeError(
            "the numbers of define are arrays, which float() and the functions of math do not"
            " take; use the words of lossspec.maths, such as exp and log"
        )

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "the numbers of define are neither true nor false; compare them, combine the masks"
            " with & | ~, and choose with lossspec.maths.where"
        )

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(
            "the numbers of define cannot be looped over; use x[..., i] for one element, and for"
            " sum() and max() the words total and largest of lossspec.maths"
        )

    def __abs__(self) -> NoReturn:
        _refuse("abs()", "abs")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"the numbers of define have no attribute {name!r}; {advice(name)}")
