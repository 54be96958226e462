"""Search for cases with a larger error, guided by Hypothesis."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import seed as seeded

from lossspec.cases.case import Case
from lossspec.cases.strategies import cases
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss

#: A score beyond this is a failure, and no better than another.
FAILED = 1e3


def search(
    loss: Loss,
    score: Callable[[SolvedCase], float],
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
        target(min(score(SolvedCase(loss, case)), FAILED))

    look()
