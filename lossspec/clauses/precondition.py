"""Preconditions: the conditions under which a clause judges a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lossspec.clauses.trial import Trial
from lossspec.excuse import Excuse
from lossspec.execution.outcome import differentiable

#: The most numbers in all tensors of a small call.
SMALL = 200


@dataclass(frozen=True)
class Precondition:
    """A condition that a case must meet for a clause to judge it.

    Attributes:
        name: Its id in reports.
        says: The condition as a sentence.
        excuse: The reason under which a skipped case is counted.
        holds: Returns whether a trial meets the condition.
    """

    name: str
    says: str
    excuse: Excuse
    holds: Callable[[Trial], bool]


def precondition(
    excuse: Excuse = Excuse.NOT_ABOUT,
) -> Callable[[Callable[[Trial], bool]], Precondition]:
    """Make a precondition of a function, with its name as the id and its docstring as the sentence.

    Args:
        excuse: The reason under which a skipped case is counted.

    Returns:
        A decorator that turns a function of a trial into a `Precondition`.
    """

    def made(holds: Callable[[Trial], bool]) -> Precondition:
        name = holds.__name__.strip("_").replace("_", "-")
        return Precondition(name, " ".join((holds.__doc__ or "").split()), excuse, holds)

    return made


@precondition(Excuse.CALL_FAILS)
def works(trial: Trial) -> bool:
    """The call returns a tensor that is small enough to read."""
    return trial.worked


@precondition(Excuse.CALL_FAILS)
def conforms(trial: Trial) -> bool:
    """The value and the gradients of the call are right."""
    return trial.conforms


@precondition(Excuse.CALL_FAILS)
def has_its_dtype(trial: Trial) -> bool:
    """The result has the dtype of the inputs."""
    return trial.precise


@precondition(Excuse.CALL_FAILS)
def has_its_shape(trial: Trial) -> bool:
    """The result has the documented shape, so that backward can take the cotangent of the case."""
    shape = trial.case.upstream(trial.case.reduction).shape
    return bool(getattr(trial.outcome.value, "shape", None) == shape)


@precondition(Excuse.CALL_FAILS)
def raises_nothing(trial: Trial) -> bool:
    """The call and its backward raise no error."""
    return trial.outcome.error is None


@precondition(Excuse.TOO_EXPENSIVE)
def small(trial: Trial) -> bool:
    """The call has at most 200 numbers."""
    return sum(array.size for array in trial.case.tensors.values()) <= SMALL


@precondition()
def has_axes(trial: Trial) -> bool:
    """The unreduced result has an axis."""
    return bool(trial.case.shape.result)


@precondition(Excuse.CALL_FAILS)
def returns_tensor(trial: Trial) -> bool:
    """The call returns a tensor."""
    return isinstance(trial.outcome.value, torch.Tensor)


@precondition(Excuse.NOT_DIFFERENTIABLE)
def has_graph(trial: Trial) -> bool:
    """Backward can start from the result."""
    return differentiable(trial.outcome.value)


@precondition()
def has_elements(trial: Trial) -> bool:
    """No tensor of the call is empty."""
    return all(array.size for array in trial.case.tensors.values())


@precondition()
def in_float32(trial: Trial) -> bool:
    """The call is in float32."""
    return trial.case.dtype == "float32"


@precondition()
def narrower_than_float64(trial: Trial) -> bool:
    """The call is in a dtype narrower than float64."""
    return trial.case.dtype != "float64"


@precondition(Excuse.TOO_UNCERTAIN)
def some_loss_known(trial: Trial) -> bool:
    """For some element of the loss, the budget is less than a tenth of it."""
    return trial.expected.value("none").informative


@precondition()
def several_along_first_axis(trial: Trial) -> bool:
    """The batch axis, or else the first axis of the unreduced result, has at least two elements."""
    axis = first_axis(trial)
    return axis is not None and trial.case.axis_sizes(trial.loss)[axis] > 1


@precondition(Excuse.IGNORED)
def some_counted(trial: Trial) -> bool:
    """At least one element of the loss is not ignored."""
    return bool(trial.expected.counted.any())


@precondition(Excuse.IGNORED)
def all_counted(trial: Trial) -> bool:
    """No element of the loss is ignored."""
    return bool(trial.expected.counted.all())


@precondition()
def separable(trial: Trial) -> bool:
    """A part of the batch is a valid batch."""
    return trial.separable


@precondition()
def can_be_cut(trial: Trial) -> bool:
    """A part of the batch, along with all axes that are tied to it, is a valid batch."""
    return trial.separable or trial.loss.batch in trial.case.shape.tied.values()


@precondition(Excuse.NOT_SUPPORTED)
def differentiable_twice(trial: Trial) -> bool:
    """The documentation promises more than a single backward."""
    return not trial.limited


@precondition(Excuse.UNDOCUMENTED_DTYPE)
def documented_dtypes(trial: Trial) -> bool:
    """The documentation promises every dtype of the call."""
    return not trial.tolerates_refusal


@precondition(Excuse.NOT_DIFFERENTIABLE)
def wants_gradients(trial: Trial) -> bool:
    """At least one tensor of the call requires a gradient."""
    return bool(trial.case.requires_grad)


def uses_options(trial: Trial) -> bool:
    """Return whether the call uses an option, or the implementation takes none.

    Without options, a call cannot show that they are lost on the way.
    """
    known, case = trial.loss.parameters_of(trial.form), trial.case
    taken = [name for name in (*known, *trial.loss.options) if trial.under_test.takes(name)]
    changed = any(case.parameters[name] != known[name].default for name in known)
    return changed or any(name in trial.loss.options for name in case.tensors) or not taken


def takes_reduction(name: str) -> Precondition:
    """Return the precondition that the implementation takes a reduction."""
    return Precondition(
        f"takes-{name}",
        f"The implementation takes reduction={name!r}.",
        Excuse.NOT_SUPPORTED,
        lambda trial: trial.can(name),
    )


def first_axis(trial: Trial) -> str | None:
    """Return the batch axis, or else the first axis of the unreduced result; None without axes."""
    names = trial.case.shape.result
    return trial.loss.batch if trial.loss.batch in names else next(iter(names), None)
