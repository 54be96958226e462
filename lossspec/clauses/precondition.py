"""Preconditions: what a case must have for a clause to judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lossspec.clauses.trial import Trial
from lossspec.excuse import Excuse

#: Numbers in all tensors of a small call, at most.
SMALL = 200


@dataclass(frozen=True)
class Precondition:
    """A condition that a case must meet for a clause to judge it.

    name : its id in reports. says : a sentence that is true where it holds. excuse : the reason
    that a case is counted under where it does not hold. holds : whether a trial meets it.
    """

    name: str
    says: str
    excuse: Excuse
    holds: Callable[[Trial], bool]


def precondition(
    excuse: Excuse = Excuse.NOT_ABOUT,
) -> Callable[[Callable[[Trial], bool]], Precondition]:
    """Make a precondition of a function: its name is the id, its docstring the sentence."""

    def made(holds: Callable[[Trial], bool]) -> Precondition:
        name = holds.__name__.strip("_").replace("_", "-")
        return Precondition(name, " ".join((holds.__doc__ or "").split()), excuse, holds)

    return made


@precondition(Excuse.CALL_FAILS)
def works(trial: Trial) -> bool:
    """The call returns a tensor that can be read."""
    return trial.worked


@precondition(Excuse.CALL_FAILS)
def conforms(trial: Trial) -> bool:
    """The plain call's value and gradients are right."""
    return trial.conforms


@precondition(Excuse.CALL_FAILS)
def has_its_dtype(trial: Trial) -> bool:
    """The result has the dtype of the inputs."""
    return trial.precise


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


@precondition()
def several_along_first_axis(trial: Trial) -> bool:
    """The batch, or the first axis of a result without one, has at least two elements."""
    axis = first_axis(trial)
    return axis is not None and trial.case.axis_sizes(trial.loss)[axis] > 1


@precondition(Excuse.IGNORED)
def some_counted(trial: Trial) -> bool:
    """Some element of the loss counts."""
    return bool(trial.expected.counted.any())


@precondition(Excuse.IGNORED)
def all_counted(trial: Trial) -> bool:
    """Every element of the loss counts."""
    return bool(trial.expected.counted.all())


@precondition()
def separable(trial: Trial) -> bool:
    """The batch can be cut."""
    return trial.separable


@precondition(Excuse.NOT_SUPPORTED)
def differentiable_twice(trial: Trial) -> bool:
    """The documentation promises more than one plain backward."""
    return not trial.limited


@precondition(Excuse.UNDOCUMENTED_DTYPE)
def documented_dtypes(trial: Trial) -> bool:
    """The documentation promises every dtype of the call."""
    return not trial.tolerates_refusal


@precondition(Excuse.NOT_DIFFERENTIABLE)
def wants_gradients(trial: Trial) -> bool:
    """Some tensor of the call requires a gradient."""
    return bool(trial.case.requires_grad)


def takes_reduction(name: str) -> Precondition:
    """Return the precondition that the implementation takes a reduction."""
    return Precondition(
        f"takes-{name}",
        f"The implementation takes reduction={name!r}.",
        Excuse.NOT_SUPPORTED,
        lambda trial: trial.can(name),
    )


def first_axis(trial: Trial) -> str | None:
    """Return the batch axis, else the first axis of the unreduced result; None if it has none."""
    names = trial.case.shape.result
    return trial.loss.batch if trial.loss.batch in names else next(iter(names), None)
