"""Clauses on the value of the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lossspec.cases.case import Case, published
from lossspec.clauses import Judgement, clause, independent, stateless
from lossspec.clauses.precondition import all_counted, precondition, small, takes_reduction, works
from lossspec.clauses.trial import Deviation, NotJudged, Trial, any_judged, required
from lossspec.excuse import Excuse
from lossspec.execution.call import unsupported_argument
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.constrained import Constrained, Mask
from lossspec.spec.loss import Example, Loss
from lossspec.spec.roles import Surface


@clause(requires=[works])
def value(trial: Trial) -> Judgement:
    """The value differs from the definition's by no more than the error budget."""
    got = required(trial.number(trial.outcome))
    reduction = trial.case.reduction
    return trial.agree(got, trial.expected.value(reduction), f"the value with {reduction!r}")


@clause(lambda loss, surface: bool(loss.examples), enough=1)
def published_examples(trial: Trial) -> Judgement:
    """Each example in the spec (published or worked by hand) gives its value to the last stated
    digit."""

    def judged(example: Example) -> bool:
        case = published(trial.loss, example)
        if unsupported_argument(trial.under_test, case) is not None:
            raise NotJudged(Excuse.NOT_SUPPORTED)
        beside = Trial(trial.under_test, SolvedCase(trial.loss, case), trial.device)
        got = required(beside.number(beside.outcome))
        printed = np.asarray(example.value, np.longdouble)
        half = 0.5 * 10.0**-example.digits
        budget = beside.expected.value(case.reduction).budget + half
        want = Bounded.around(printed, budget, case.dtype)
        trial.agree(got, want, f"the example ({example.source})", case=case)
        return bool(np.isfinite(budget).all())

    return any_judged(trial, judged, trial.loss.examples)


def _takes_nan(loss: Loss, surface: Surface) -> bool:
    judged = stateless(loss, surface) and independent(loss, surface) and "none" in loss.reductions
    return judged and any(_unbounded(loss, form.name) for form in loss.forms)


def _single(loss: Loss) -> bool:
    """Return whether every result is one number, so that no element is free of the NaN."""
    return not any(contract.result for form in loss.forms for contract in form.contracts)


def _unbounded(loss: Loss, form: str) -> list[str]:
    """Return the floating-point tensors of any numbers or of logarithms, which may hold a NaN."""
    return [
        name
        for name, role in loss.form(form).tensors.items()
        if role.low == -np.inf
        and (role.high == np.inf or role.style == "log_probability")
        and not (role.integer or role.scalar or isinstance(role, Constrained))
    ]


def _poisonable(trial: Trial) -> list[str]:
    """Return the tensors of a case that are not empty and in which any number may be NaN."""
    names = _unbounded(trial.loss, trial.case.form)
    return [name for name in names if trial.case.tensors[name].size]


@precondition()
def _has_number_that_may_be_nan(trial: Trial) -> bool:
    """At least one tensor that may hold any number is not empty."""
    return bool(_poisonable(trial))


# A kernel may skip elements whose weight is 0.
@precondition(Excuse.IGNORED)
def _no_zero_in_options(trial: Trial) -> bool:
    """No optional tensor, such as a weight, holds a 0, and no mask holds False."""
    roles = trial.loss.roles(trial.form)
    given = (n for n in trial.case.tensors if n in trial.loss.options or isinstance(roles[n], Mask))
    return not any((trial.case.tensors[n] == 0).any() for n in given)


@clause(
    _takes_nan,
    enough=6,
    requires=[
        _has_number_that_may_be_nan,
        takes_reduction("none"),
        small,
        _no_zero_in_options,
        all_counted,
    ],
)
def nan_spreads(trial: Trial) -> Judgement:
    """With one NaN in an input, `none` gives NaN for the elements computed from it, and the right
    loss for all others."""
    mine = required(trial.under("none"))
    plain = trial.expected.value("none")
    if mine.shape != plain.exact.shape or (plain.error(mine) > 1).any():
        raise NotJudged(Excuse.CALL_FAILS)
    names = _poisonable(trial)
    name = names[mine.size % len(names)]
    case = _poisoned(trial.case, name)
    beside = Trial(trial.under_test, SolvedCase(trial.loss, case), trial.device)
    got, want = beside.number(beside.outcome), beside.expected.value("none")
    if got is None or got.shape != want.exact.shape:
        raise NotJudged(Excuse.CALL_FAILS)
    reached = beside.expected.reached(name, np.isnan(case.tensors[name].astype(float)))
    lost = reached & np.isnan(want.exact)
    hidden = lost & ~np.isnan(got)
    # The definition leaves the result of a comparison with NaN open, so it may hide the NaN.
    if hidden.any() and not beside.expected.compared:
        at = tuple(int(i) for i in np.argwhere(hidden)[0])
        raise Deviation(
            f"the loss computed from a NaN at {list(at)}",
            got[at],
            np.nan,
            check=f"value[{', '.join(map(str, at))}].isnan()" if at else "value.isnan()",
            case=case,
        )
    others = replace(want, budget=np.where(reached, np.inf, want.budget))
    # A loss with a single element does not show whether the NaN spreads to others.
    if _single(trial.loss):
        return bool(lost.any()) and not beside.expected.compared
    return trial.agree(got, others, "the loss of an element not computed from the NaN", case=case)


def _poisoned(case: Case, name: str) -> Case:
    """Return the case with a NaN in the middle of one tensor."""
    array = case.tensors[name].copy()
    array.flat[array.size // 2] = np.nan
    return case.with_(
        tensors={**case.tensors, name: array}, reduction="none", requires_grad=(), layouts={}
    )
