"""Clauses on the value of the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lossspec.cases.case import Case, published
from lossspec.clauses import Judgement, clause, stateless
from lossspec.clauses.trial import Deviation, Trial
from lossspec.execution.call import unsupported_argument
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface


@clause()
def value(trial: Trial) -> Judgement:
    """The value is that of the definition, within the error that rounding explains."""
    got = trial.number(trial.outcome)
    if got is None:
        return None
    reduction = trial.case.reduction
    return trial.agree(got, trial.expected.value(reduction), f"the value with {reduction!r}")


@clause(lambda loss, surface: bool(loss.examples), enough=1)
def published_examples(trial: Trial) -> Judgement:
    """The spec's examples, published or worked by hand, give the stated value to its last digit."""
    judged = None
    for example in trial.loss.examples:
        case = published(trial.loss, example)
        if unsupported_argument(trial.under_test, case) is not None:
            continue
        beside = Trial(trial.under_test, SolvedCase(trial.loss, case), trial.device)
        got = beside.number(beside.outcome)
        if got is None:
            continue  # clause `accepts` tells
        printed = np.asarray(example.value, np.longdouble)
        half = 0.5 * 10.0**-example.digits
        budget = beside.expected.value(case.reduction).budget + half
        want = Bounded.around(printed, budget, case.dtype)
        trial.agree(got, want, f"the example ({example.source})", case=case)
        judged = bool(judged) or bool(np.isfinite(budget).all())
    return judged


def _takes_nan(loss: Loss, surface: Surface) -> bool:
    return stateless(loss, surface) and any(_unbounded(loss, form.name) for form in loss.forms)


def _unbounded(loss: Loss, form: str) -> list[str]:
    """The tensors that may hold any number, so that nothing rules a nan out either."""
    return [
        name
        for name, role in loss.form(form).tensors.items()
        if role.low == -np.inf and role.high == np.inf and not (role.integer or role.scalar)
    ]


#: Elements of a call that shows where a nan goes.
FEW = 200


@clause(_takes_nan, enough=6)
def nan_spreads(trial: Trial) -> Judgement:
    """A nan makes every loss that is computed from it nan, and leaves the others as they are."""
    case = trial.case
    names = [name for name in _unbounded(trial.loss, case.form) if case.tensors[name].size]
    mine = trial.under("none") if names and trial.can("none") else None
    if mine is None or sum(array.size for array in case.tensors.values()) > FEW:
        return None
    zeros = any((case.tensors[n] == 0).any() for n in trial.loss.options if n in case.tensors)
    if zeros or not trial.expected.counted.all():
        return None  # what counts for nothing need not be computed
    plain = trial.expected.value("none")
    if mine.shape != plain.exact.shape or (plain.error(mine) > 1).any():
        return None  # clause `value` tells
    name = names[mine.size % len(names)]
    case = _poisoned(case, name)
    beside = Trial(trial.under_test, SolvedCase(trial.loss, case), trial.device)
    got, want = beside.number(beside.outcome), beside.expected.value("none")
    if got is None or got.shape != want.exact.shape:
        return None
    reached = beside.expected.reached(name, np.isnan(case.tensors[name].astype(float)))
    lost = reached & np.isnan(want.exact)
    hidden = lost & ~np.isnan(got)
    # Which of two is the larger, or which branch is taken, is open where one of them is nan.
    if hidden.any() and not beside.expected.compared:
        at = tuple(int(i) for i in np.argwhere(hidden)[0])
        raise Deviation(
            f"the loss of a nan at {list(at)}",
            got[at],
            np.nan,
            check=f"value[{', '.join(map(str, at))}].isnan()" if at else "value.isnan()",
            case=case,
        )
    others = replace(want, budget=np.where(reached, np.inf, want.budget))
    # Where there is no other element, nothing shows whether it spreads.
    return trial.agree(got, others, "the loss beside a nan", case=case)


def _poisoned(case: Case, name: str) -> Case:
    """The case with a nan in the middle of one tensor."""
    array = case.tensors[name].copy()
    array.flat[array.size // 2] = np.nan
    return case.with_(
        tensors={**case.tensors, name: array}, reduction="none", requires_grad=(), layouts={}
    )
