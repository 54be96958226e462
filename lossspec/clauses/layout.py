"""Clauses on the order of the axes in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause
from lossspec.clauses.precondition import conforms, precondition, works
from lossspec.clauses.trial import Trial, failed
from lossspec.execution.outcome import Outcome
from lossspec.execution.tensors import to_extended
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface


def _has_order(array: np.ndarray) -> bool:
    """Return whether at least two axes have more than one element."""
    return len([size for size in array.shape if size > 1]) > 1


@precondition()
def _has_two_axes(trial: Trial) -> bool:
    """Some tensor has at least two axes with more than one element."""
    roles = trial.loss.roles(trial.form)
    tensors = trial.case.tensors
    return any(_has_order(tensors[name]) and not roles[name].scalar for name in tensors)


def _orders(trial: Trial) -> Iterator[Case]:
    """Yield the case with other orders of axes in memory.

    First all tensors have their axes reversed. Then some have their first two axes swapped: the
    first tensor if it has further axes, as if its batch were not in front, or else the others.
    Last, tensors of more than two axes are slices of tensors whose second axis is the last in
    memory.
    """
    roles, tensors = trial.loss.roles(trial.form), trial.case.tensors
    names = [name for name in tensors if _has_order(tensors[name]) and not roles[name].scalar]
    yield trial.case.with_(layouts=dict.fromkeys(names, "permuted"))
    some = names[:1] if tensors[names[0]].ndim > 2 else names[1:]
    if some:
        yield trial.case.with_(layouts=dict.fromkeys(some, "swapped"))
    deep = [name for name in names if tensors[name].ndim > 2]
    if deep:
        yield trial.case.with_(layouts=dict.fromkeys(deep, "gapped"))


def _of_two_axes(loss: Loss, surface: Surface) -> bool:
    """Return whether a tensor of some form can have two axes."""
    shapes = [axes for form in loss.forms for shape in form.contracts for axes in shape.inputs]
    return any(len(axes) > 1 or "*" in axes for axes in shapes)


@clause(_of_two_axes, enough=60, requires=(_has_two_axes, works, conforms))
def transposed(trial: Trial) -> Judgement:
    """With the axes of tensors in another order in memory, value and gradients are right, under
    every option."""
    outcomes = [(case, trial.fresh(layouts=case.layouts)) for case in _orders(trial)]
    # An implementation may fail in the backward of one order only, so judge all values first.
    judged = [_right_value(trial, case, outcome) for case, outcome in outcomes]
    for case, outcome in outcomes:
        _judge_gradients(trial, case, outcome)
    return any(judged)


#: The words of the report for these calls.
_WHEN = "with another order of axes in memory"


def _right_value(trial: Trial, case: Case, outcome: Outcome) -> bool:
    """Judge the value of a call with other layouts; return whether a wrong one would have shown."""
    if outcome.error is not None and outcome.phase != "backward":
        what = f"{outcome.phase} {_WHEN}"
        raise failed(what, outcome.error, "a tensor", check="error is None", case=case)
    got = trial.number(outcome)
    if got is None:
        return False
    return trial.agree(got, trial.expected.value(case.reduction), f"the value {_WHEN}", case=case)


def _judge_gradients(trial: Trial, case: Case, outcome: Outcome) -> None:
    """Judge the backward of a call with other layouts."""
    if outcome.error is not None:
        what = f"{outcome.phase} {_WHEN}"
        raise failed(what, outcome.error, "a tensor", check="error is None", case=case)
    for name, slope in trial.expected.gradients().items():
        gradient = outcome.gradients.get(name)
        if gradient is not None:
            what, of = f"the gradient of {name} {_WHEN}", f"gradients[{name!r}]"
            found = to_extended(gradient)
            trial.agree(found, slope, what, of=of, case=case, gradient_of=name)
