"""Clauses on training a model with the loss."""

from __future__ import annotations

from lossspec.clauses import Judgement, clause
from lossspec.clauses.digits_model import PACKAGE, Failed, plain, steps, trainable
from lossspec.clauses.precondition import precondition
from lossspec.clauses.trial import Trial, Unsupported, failed
from lossspec.excuse import Excuse
from lossspec.execution.call import unsupported_argument
from lossspec.execution.tensors import to_extended
from lossspec.oracle.solver import SolvedCase


@precondition()
def _trainable(trial: Trial) -> bool:
    """The spec allows the batch of a training run."""
    return trainable(trial.loss)


@precondition(Excuse.NOT_SUPPORTED)
def _takes_plain_call(trial: Trial) -> bool:
    """The implementation takes the call that the training run makes."""
    return unsupported_argument(trial.under_test, plain(trial.loss)) is None


# Clause `result-shape` reports such a result.
@precondition(Excuse.CALL_FAILS)
def _not_oversized(trial: Trial) -> bool:
    """The result is small enough to read."""
    return not trial.outcome.oversized


@clause(
    enough=1,
    once=True,
    slow=True,
    needs=PACKAGE,
    requires=[_trainable, _takes_plain_call, _not_oversized],
)
def trained(trial: Trial) -> Judgement:
    """In every step of a training run on scikit-learn's digits, loss and gradients are right."""
    curves: dict[str, list[tuple[int, float, float]]] = {"training": [], "validation": []}
    informative = False
    try:
        for step in steps(trial.under_test, trial.device):
            expected = SolvedCase(trial.loss, step.case).expected
            reduction = step.case.reduction
            when = f"in step {step.number} of a training run"
            want, got = expected.value(reduction), to_extended(step.value)
            informative |= trial.agree(got, want, f"the loss {when}", of=None, case=step.case)
            for name, gradient in step.gradients.items():
                bounded = expected.gradient(name, reduction, step.case.upstream(reduction))
                if gradient is not None and bounded is not None:
                    what = f"the gradient of {name} {when}"
                    trial.agree(to_extended(gradient), bounded, what, of=None, case=step.case)
            curve = curves["training" if step.learned else "validation"]
            curve.append((step.number, float(got), float(want.exact)))
    except Failed as stopped:
        error = stopped.__cause__ or stopped
        raise failed("a training run", error, "a loss in each step") from None
    if not curves["training"]:
        raise Unsupported("its results have no gradient")
    trial.figures["curves"] = curves
    return informative
