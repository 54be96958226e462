"""Clauses on the type and the shape of the result."""

from __future__ import annotations

import torch

from lossspec.clauses import Judgement, clause
from lossspec.clauses.precondition import returns_tensor
from lossspec.clauses.trial import Deviation, NotJudged, Trial, failed
from lossspec.excuse import Excuse
from lossspec.execution.outcome import unimplemented


@clause(empty=True)
def accepts(trial: Trial) -> Judgement:
    """Every call that the spec allows returns a tensor, and its backward raises no error."""
    outcome = trial.outcome
    if outcome.error is not None and trial.tolerates_refusal:
        raise NotJudged(Excuse.UNDOCUMENTED_DTYPE)
    if outcome.error is not None:
        if unimplemented(outcome.error):
            raise failed(f"its {outcome.phase}", outcome.error)
        kind = type(outcome.error).__name__
        text = str(outcome.error).strip().split("\n")[0][:300]
        raise Deviation(
            f"{outcome.phase} raised {kind}",
            f"{kind}: {text}",
            "a tensor",
            check="error is None",
            raised=(kind, text),
        )
    if not isinstance(outcome.value, torch.Tensor):
        raise Deviation(
            "the call returned no tensor",
            type(outcome.value).__name__,
            "a tensor",
            check="isinstance(value, torch.Tensor)",
        )
    return True


@clause(empty=True, requires=[returns_tensor])
def result_shape(trial: Trial) -> Judgement:
    """The result has the documented shape under `none`, and is a scalar otherwise."""
    value = trial.outcome.value
    want = trial.expected.losses.shape if trial.case.reduction == "none" else ()
    if tuple(value.shape) != want:
        raise Deviation(
            "the result's shape",
            list(value.shape),
            list(want),
            check=f"tuple(value.shape) == {want!r}",
            shapes=(value.shape, want),
        )
    return True
