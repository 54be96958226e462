"""Roles: what the numbers of a tensor mean, and which ones a valid call may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Surface = Literal["function", "class"]


@dataclass(frozen=True, kw_only=True)
class Role:
    """What the numbers of a tensor mean, and therefore which ones a valid call may hold."""

    #: The domain, ends included.
    low: float = float("-inf")
    high: float = float("inf")
    #: Whether the documentation promises a gradient.
    differentiable: bool = True
    #: Of an optional tensor: its own shape, such as `(C)`; `like input` for the shape of that
    #: tensor; `broadcasts with input` for any shape that expands to it.
    shape: str | None = None
    #: Of an optional tensor: the number that `define` gets when it is left out.
    default: float | None = None
    #: Of an optional tensor: where it may be given.
    surfaces: tuple[Surface, ...] = ("function", "class")
    #: Whether it is passed as a Python number, or as a tuple of them.
    scalar: bool = False
    #: The name of a torch function, applied along the class axis, whose result the call gets in
    #: place of the tensor itself; gradients are judged in front of it.
    through: str | None = None
    #: The name of the parameter as which the class owns it, with the same numbers in any shape: it
    #: is loaded after construction.
    state: str | None = None
    #: Whether training adjusts it, or what it is computed from. A target is data: `learned=False`.
    #: Timing takes the gradients of learned tensors only.
    learned: bool = True
    #: What a reader should know beside the role.
    doc: str = ""

    #: How `lossspec.cases` draws dense values for it.
    style = "real"
    #: Integers are indices, signs, lengths: exact, and without a gradient.
    integer = False

    @property
    def optional(self) -> bool:
        """Whether a call may leave it out."""
        return self.default is not None

    def contains(self, numbers: np.ndarray) -> np.ndarray:
        """Which numbers lie in the domain; nan lies in none."""
        return np.asarray((numbers >= self.low) & (numbers <= self.high))


@dataclass(frozen=True, kw_only=True)
class Real(Role):
    """Any real number."""


@dataclass(frozen=True, kw_only=True)
class Factor(Real):
    """A factor that a layer multiplies with others and sums, `count` of them to a product.

    Its size is such that the dtype still resolves the sums.
    """

    count: int = 2
    style = "factor"


@dataclass(frozen=True, kw_only=True)
class Logit(Role):
    """An unnormalised score: any real number, also large ones with a common offset."""

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
        """Which numbers lie in the domain."""
        return np.asarray((numbers > self.low) & (numbers <= self.high))


@dataclass(frozen=True, kw_only=True)
class NonNegative(Role):
    """A number of 0 or more."""

    low: float = 0.0
    style = "non_negative"


@dataclass(frozen=True, kw_only=True)
class Count(Role):
    """An observed count: 0, 1, 2, ... in a floating dtype, so that numbers in between are valid."""

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
        """Which numbers are -1 or 1."""
        return np.asarray((numbers == -1) | (numbers == 1))


@dataclass(frozen=True, kw_only=True)
class Binary(Role):
    """0 or 1, held in a floating dtype."""

    low: float = 0.0
    high: float = 1.0
    differentiable: bool = False
    style = "binary"

    def contains(self, numbers: np.ndarray) -> np.ndarray:
        """Which numbers are 0 or 1."""
        return np.asarray((numbers == 0) | (numbers == 1))


@dataclass(frozen=True, kw_only=True)
class Weight(Role):
    """A factor of 0 or more."""

    low: float = 0.0
    default: float | None = 1.0
    differentiable: bool = False
    style = "weight"


@dataclass(frozen=True, kw_only=True)
class ClassIndex(Role):
    """An integer in [0, C)."""

    low: float = 0.0
    differentiable: bool = False
    #: Whether `define` gets the certain distribution instead.
    one_hot: bool = False
    #: The parameter whose value marks elements that do not count.
    ignored_by: str | None = None
    #: The documented dtypes, and those that may raise, but must be right when they do not.
    dtypes: tuple[str, ...] = ("int64",)
    tolerated: tuple[str, ...] = ("uint8",)
    #: What ends a list of classes: what follows it in its row is no part of the list.
    ends: int | None = None
    #: Whether another integer, or a floating dtype, must raise.
    checked: bool = True
    #: The axis that it counts along; the class axis of its loss when empty.
    classes: str = ""
    style = "class_index"
    integer = True

    def allows(self, index: np.ndarray, classes: int, parameters: Mapping[str, Any]) -> np.ndarray:
        """Which numbers are classes, or stand for something else by the contract."""
        allowed = (index >= 0) & (index < classes)
        if self.ignored_by is not None:
            allowed |= index == parameters[self.ignored_by]
        if self.ends is not None:
            allowed |= index == self.ends
        return np.asarray(allowed)


@dataclass(frozen=True, kw_only=True)
class Length(Role):
    """How much of an axis counts: an integer from 0 to the size of axis `of`."""

    low: float = 0.0
    differentiable: bool = False
    of: str
    dtypes: tuple[str, ...] = ("int64", "int32")
    style = "length"
    integer = True
