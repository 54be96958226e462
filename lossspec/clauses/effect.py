"""Clauses on what a call leaves behind."""

from __future__ import annotations

from lossspec.clauses import Judgement, clause
from lossspec.trial import Deviation, Trial


@clause()
def inputs_untouched(trial: Trial) -> Judgement:
    """After forward and backward every input holds the bits that it was handed over with."""
    outcome = trial.outcome
    touched = outcome.touched()
    if touched:
        name = touched[0]
        raise Deviation(
            f"{name} was written to",
            outcome.inputs[name].detach().flatten()[:8].tolist(),
            outcome.before[name].flatten()[:8].tolist(),
            check=f"same_bits(inputs[{name!r}], before[{name!r}])",
        )
    return True
