"""Hypothesis strategies for cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st

from lossspec.cases.backend import KIND, SEED, SEED_BITS
from lossspec.cases.case import Case
from lossspec.cases.draw import Choices, drawn
from lossspec.spec.loss import Loss

T = TypeVar("T")

#: The number of choices of a case that `cases` draws. Hypothesis prefers fewer choices to smaller
#: ones, and a large case can have fewer than a small one. With equal numbers it finds small cases.
CHOICES = 48
#: A function that restricts the choices of a case.
Narrow = Callable[[Choices], Choices]


@dataclass(frozen=True, eq=False)
class DrawnCase:
    """A case with the choices it was drawn from, which Hypothesis stores and shrinks.

    Attributes:
        case: The case.
        choices: The index of the chosen option of each choice, and the seed.
        seed_at: The position of the seed among the choices.
    """

    case: Case
    choices: tuple[int, ...]
    seed_at: int = 0

    @property
    def without_seed(self) -> tuple[int, ...]:
        """Return all choices except the seed."""
        return (*self.choices[: self.seed_at], *self.choices[self.seed_at + 1 :])


@st.composite
def cases(draw: st.DrawFn, loss: Loss, dtypes: tuple[str, ...] | None = None) -> Case:
    """Draw any valid call that the spec allows.

    Args:
        draw: Hypothesis's draw function; callers of the strategy do not pass it.
        loss: The spec of the loss.
        dtypes: The dtypes to choose from; those of the spec by default.
    """
    choose = _Drawn(draw)
    case = drawn(choose, loss, dtypes)
    for _ in range(CHOICES - len(choose.made)):
        draw(_indices(1))
    return case


@st.composite
def drawn_cases(
    draw: st.DrawFn,
    loss: Loss,
    dtypes: tuple[str, ...] | None = None,
    narrow: Narrow | None = None,
) -> DrawnCase:
    """Draw a valid call and keep its choices.

    Args:
        draw: Hypothesis's draw function; callers of the strategy do not pass it.
        loss: The spec of the loss.
        dtypes: The dtypes to choose from; those of the spec by default.
        narrow: A function that restricts the choices; None leaves them unrestricted.
    """
    choose = _Drawn(draw)
    case = drawn(choose if narrow is None else narrow(choose), loss, dtypes)
    return DrawnCase(case, tuple(choose.made), choose.seed_at)


@dataclass
class _Drawn:
    """A source of choices that Hypothesis makes."""

    draw: st.DrawFn
    made: list[int] = field(default_factory=list)
    seed_at: int = 0

    def __call__(self, what: str, options: Sequence[T]) -> T:
        return options[self._index(what, len(options))] if len(options) > 1 else options[0]

    def seed(self) -> int:
        self.seed_at = len(self.made)
        return self._index(SEED, 2**SEED_BITS)

    def _index(self, kind: str, count: int) -> int:
        token = KIND.set(kind)
        try:
            index = self.draw(_indices(count))
        finally:
            KIND.reset(token)
        self.made.append(index)
        return index


@cache
def _indices(count: int) -> st.SearchStrategy[int]:
    # Cached, because building a strategy costs more than drawing from it.
    return st.integers(0, count - 1)
