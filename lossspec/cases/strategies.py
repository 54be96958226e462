"""Hypothesis strategies for cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st

from lossspec.cases.case import Case
from lossspec.cases.draw import drawn
from lossspec.spec.loss import Loss

T = TypeVar("T")


@st.composite
def cases(draw: st.DrawFn, loss: Loss, dtypes: tuple[str, ...] | None = None) -> Case:
    """Every valid call that the spec allows, as a Hypothesis strategy."""
    return drawn(_Drawn(draw), loss, dtypes)


@dataclass(frozen=True)
class _Drawn:
    """Choices that Hypothesis makes."""

    draw: st.DrawFn

    def __call__(self, what: str, options: Sequence[T]) -> T:
        return options[self.draw(_index(len(options)))] if len(options) > 1 else options[0]

    def seed(self) -> int:
        return self.draw(_index(2**32))


@cache
def _index(count: int) -> st.SearchStrategy[int]:
    # Made once: making a strategy costs more than drawing from it.
    return st.integers(0, count - 1)
