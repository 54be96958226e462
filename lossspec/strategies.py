"""Cases as Hypothesis draws them: every choice is one that it can shrink."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import seed as seeded
from hypothesis import strategies as st

from lossspec.cases import Case, drawn
from lossspec.oracle import Solved
from lossspec.spec import Loss

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


#: A score beyond this is a failure, and no better than another.
FAILED = 1e3


def search(
    loss: Loss,
    score: Callable[[Solved], float],
    examples: int,
    seed: int,
    dtypes: tuple[str, ...] | None = None,
) -> None:
    """Let Hypothesis look for cases with a high score, such as the error ÷ its budget."""

    @seeded(seed)
    @settings(
        max_examples=examples,
        phases=[Phase.generate, Phase.target],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(loss, dtypes))
    def look(case: Case) -> None:
        target(min(score(Solved(loss, case)), FAILED))

    look()
