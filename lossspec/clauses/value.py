"""Clauses on the value of the loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lossspec.cases.case import Case, published
from lossspec.clauses import Judgement, clause, stateless
from lossspec.clauses.precondition import all_counted, precondition, small, takes_reduction, works
from lossspec.clauses.trial import Deviation, NotJudged, Trial, any_judged, required
from lossspec.excuse import Excuse
from lossspec.execution.call import unsupported_argument
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Example, Loss
from lossspec.spec.roles import Surface


@clause(requires=[works])
def value(trial: Trial) -> Judgement:
    """The value is that of the definition, within the error that rounding explains."""
    got = required(trial.number(trial.outcome))
    reduction = trial.case.reduction
    return trial.agree(got, trial.expected.value(reduction), f"the value with {reduction!r}")


@clause(lambda loss, surface: bool(loss.examples), enough=1)
def published_examples(trial: Trial) -> Judgement:
    """The spec's examples, published or worked by hand, give the stated value to its last digit."""

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
    return stateless(loss, surface) and any(_unbounded(loss, form.name) for form in loss.forms)


def _unbounded(loss: Loss, form: str) -> list[str]:
    """The tensors that may hold any number, so that nothing rules a nan out either."""
    return [
        name
        for name, role in loss.form(form).tensors.items()
        if role.low == -np.inf and role.high == np.inf and not (role.integer or role.scalar)
    ]


def _poisonable(trial: Trial) -> list[str]:
    """The tensors of a case that have numbers, each of which may be nan."""
    names = _unbounded(trial.loss, trial.case.form)
    return [name for name in names if trial.case.tensors[name].size]


@precondition()
def _has_number_that_may_be_nan(trial: Trial) -> bool:
    """Some tensor that may hold any number is not empty."""
    return bool(_poisonable(trial))


# A kernel need not compute what counts for nothing.
@precondition(Excuse.IGNORED)
def _no_zero_in_options(trial: Trial) -> bool:
    """No number of an optional tensor is 0, such as a weight."""
    given = (n for n in trial.loss.options if n in trial.case.tensors)
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
    """A nan makes every loss that is computed from it nan, and leaves the others as they are."""
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
