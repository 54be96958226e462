"""Clauses on gradients."""

from __future__ import annotations

import numpy as np

from lossspec.clauses import Judgement, clause
from lossspec.spec import ClassIndex, Loss, Surface
from lossspec.tensors import to_extended
from lossspec.trial import Deviation, Trial


@clause()
def gradient(trial: Trial) -> Judgement:
    """For any cotangent, each gradient is the definition's, within what rounding explains."""
    case, outcome = trial.case, trial.outcome
    if outcome.error is not None or not case.requires_grad:
        return None
    told = False
    for name in case.requires_grad:
        upstream = case.upstream(case.reduction)
        want = trial.expected.gradient(name, case.reduction, upstream)
        if want is None:
            continue
        got = outcome.gradients[name]
        if got is None:
            raise Deviation(
                f"no gradient of {name}",
                "None",
                f"a gradient of shape {list(want.exact.shape)}",
                check=f"gradients[{name!r}] is not None",
            )
        # Clause `ignored-gradient` judges the rows that are ignored.
        want = trial.expected.counted_only(name, want)
        told |= trial.agree(
            to_extended(got), want, f"the gradient of {name}", of=f"gradients[{name!r}]"
        )
    return told


def _ignores(loss: Loss, surface: Surface) -> bool:
    return any(
        isinstance(role, ClassIndex) and role.ignored_by is not None
        for form in loss.forms
        for role in form.tensors.values()
    )


@clause(_ignores)
def ignored_gradient(trial: Trial) -> Judgement:
    """An ignored element gets a gradient of exactly 0, whatever its row holds."""
    counted = trial.expected.counted
    first = next(iter(trial.form.tensors))
    gradient = trial.outcome.gradients.get(first)
    if counted.all() or gradient is None:
        return None
    got = to_extended(gradient)
    wrong = trial.expected.ignored(first, got.shape) & (got != 0)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise Deviation(
            f"the gradient of an ignored row at {list(at)}",
            got[at],
            0,
            check=f"gradients[{first!r}][{', '.join(map(str, at))}] == 0",
        )
    return True
