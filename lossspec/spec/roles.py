"""Roles: the meaning of the numbers in a tensor, and which numbers a valid call may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Surface = Literal["function", "class"]


@dataclass(frozen=True, kw_only=True)
class Role:
    """The meaning of the numbers in a tensor, and so which numbers a valid call may hold."""

    #: The ends of the domain, which belong to it.
    low: float = float("-inf")
    high: float = float("inf")
    #: Whether the documentation promises a gradient.
    differentiable: bool = True
    #: For an optional tensor: its shape, such as `(C)`. `like input` stands for the shape of the
    #: tensor `input`, and `broadcasts with input` for any shape that broadcasts to it.
    shape: str | None = None
    #: For an optional tensor: the number that `define` gets if the call omits the tensor.
    default: float | None = None
    #: For an optional tensor: the surfaces that take it.
    surfaces: tuple[Surface, ...] = ("function", "class")
    #: Whether a call passes it as a Python number, or as a tuple of Python numbers.
    scalar: bool = False
    #: The name of a torch function that is applied along the class axis before the call. Gradients
    #: are judged with respect to its input.
    through: str | None = None
    #: The name of the parameter of the class that holds these numbers, in any shape. The numbers
    #: are loaded into it after construction.
    state: str | None = None
    #: Whether training adjusts it, or the weights it is computed from. False for a target, which
    #: is data. The timing suite takes gradients of learned tensors only.
    learned: bool = True
    #: The explanation that is printed on the page of the loss after that of the role.
    doc: str = ""

    #: The name of the strategy with which `lossspec.cases` draws its numbers.
    style = "real"
    #: Whether it holds integers, such as indices or lengths: exact and without a gradient. Then its
    #: `dtypes` are those of a call.
    integer = False
    dtypes = tuple[str, ...]()

    @property
    def optional(self) -> bool:
        """Whether a call may omit it."""
        return self.default is not None

    def contains(self, numbers: np.ndarray) -> np.ndarray:
        """Return a mask of the numbers that lie in the domain; nan does not."""
        return np.asarray((numbers >= self.low) & (numbers <= self.high))


@dataclass(frozen=True, kw_only=True)
class Real(Role):
    """Any real number."""


@dataclass(frozen=True, kw_only=True)
class Factor(Real):
    """A real number that a layer multiplies with others before it sums the products.

    Each product has `count` factors. They are drawn small enough for the dtype to resolve the sums.
    """

    count: int = 2
    style = "factor"


@dataclass(frozen=True, kw_only=True)
class Logit(Role):
    """An unnormalised score: any real number, also a large one with an offset common to its row."""

    style = "logit"


@dataclass(frozen=True, kw_only=True)
class LogProbability(Role):
    """The logarithm of a probability: at most 0."""

    high: float = 0.0
    style = "log_probability"


@dataclass(frozen=True, kw_only=True)
class Probability(Role):
    """A number in [0, 1]."""

    low: float = 0.0
    high: float = 1.0
    style = "probability"


@dataclass(frozen=True, kw_only=True)
class Distribution(Probability):
    """Probabilities that sum to 1 along the class axis."""

    style = "distribution"


@dataclass(frozen=True, kw_only=True)
class Positive(Role):
    """A number above 0."""

    low: float = 0.0
    style = "positive"

    def contains(self, numbers: np.ndarray) -> np.ndarray:
        """Return a mask of the numbers that lie in the domain; nan does not."""
        return np.asarray((numbers > self.low) & (numbers <= self.high))


@dataclass(frozen=True, kw_only=True)
class NonNegative(Role):
    """A number of 0 or more."""

    low: float = 0.0
    style = "non_negative"


@dataclass(frozen=True, kw_only=True)
class Count(Role):
    """An observed count: 0, 1, 2, ... in a floating dtype; numbers in between are valid too."""

    low: float = 0.0
    style = "count"


@dataclass(frozen=True, kw_only=True)
class Sign(Role):
    """-1 or 1, held in a floating dtype."""

    low: float = -1.0
    high: float = 1.0
    differentiable: bool = False
    style = "sign"

    def contains(self, numbers: np.ndarray) -> np.ndarray:
        """Return a mask of the numbers that are -1 or 1."""
        return np.asarray((numbers == -1) | (numbers == 1))


@dataclass(frozen=True, kw_only=True)
class Binary(Role):
    """0 or 1, held in a floating dtype."""

    low: float = 0.0
    high: float = 1.0
    differentiable: bool = False
    style = "binary"

    def contains(self, numbers: np.ndarray) -> np.ndarray:
        """Return a mask of the numbers that are 0 or 1."""
        return np.asarray((numbers == 0) | (numbers == 1))


@dataclass(frozen=True, kw_only=True)
class Weight(Role):
    """A factor of 0 or more."""

    low: float = 0.0
    default: float | None = 1.0
    differentiable: bool = False
    #: Whether the loss has a gradient by it as well; a divisor that it is part of is its sum. No
    #: drawn call asks for this gradient, since training seldom does; `neutral-weight` judges it.
    adjustable: bool = False
    style = "weight"


@dataclass(frozen=True, kw_only=True)
class ClassIndex(Role):
    """An integer in [0, C)."""

    low: float = 0.0
    differentiable: bool = False
    #: Whether `define` gets its one-hot encoding instead.
    one_hot: bool = False
    #: The parameter whose value marks ignored elements.
    ignored_by: str | None = None
    #: The documented dtypes, and further dtypes: a call with one of these may raise, but its result
    #: must be correct if it does not.
    dtypes: tuple[str, ...] = ("int64",)
    tolerated: tuple[str, ...] = ("uint8",)
    #: The number that ends a list of classes; later numbers in its row do not belong to the list.
    ends: int | None = None
    #: Whether an integer that is no class, or a floating dtype, must raise.
    checked: bool = True
    #: Whether a floating dtype must raise if the indices are `checked`.
    whole: bool = True
    #: The axis of the classes; the class axis of the loss if empty.
    classes: str = ""
    style = "class_index"
    integer = True

    def allows(self, index: np.ndarray, classes: int, parameters: Mapping[str, Any]) -> np.ndarray:
        """Return a mask of the numbers that are classes, ignored, or the end of a list.

        Args:
            index: Class indices of any shape.
            classes: The number of classes.
            parameters: The parameters of the call by name.
        """
        allowed = (index >= 0) & (index < classes)
        if self.ignored_by is not None:
            allowed |= index == parameters[self.ignored_by]
        if self.ends is not None:
            allowed |= index == self.ends
        return np.asarray(allowed)


@dataclass(frozen=True, kw_only=True)
class Length(Role):
    """The length of a sequence: an integer from 0 to the size of axis `of`."""

    low: float = 0.0
    differentiable: bool = False
    of: str
    dtypes: tuple[str, ...] = ("int64", "int32")
    style = "length"
    integer = True
