"""Clauses on the value of the loss."""

from __future__ import annotations

from lossspec.clauses import Judgement, clause
from lossspec.trial import Trial


@clause()
def value(trial: Trial) -> Judgement:
    """The value is that of the definition, within the error that rounding explains."""
    got = trial.number(trial.outcome)
    if got is None:
        return None
    reduction = trial.case.reduction
    return trial.agree(got, trial.expected.value(reduction), f"the value with {reduction!r}")
