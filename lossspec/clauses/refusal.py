"""Clauses on calls that the contract rules out: they must raise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lossspec.cases.axes import axes_of
from lossspec.cases.breaking import broken
from lossspec.clauses import Judgement, clause
from lossspec.clauses.precondition import (
    conforms,
    has_elements,
    precondition,
    raises_nothing,
    small,
    works,
)
from lossspec.clauses.trial import Deviation, NotJudged, Trial, any_judged
from lossspec.excuse import Excuse
from lossspec.execution.call import argument
from lossspec.execution.outcome import Outcome
from lossspec.execution.tensors import dtype_of, first_numbers, to_extended, to_torch
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Loss
from lossspec.spec.refusals import Refusal
from lossspec.spec.roles import ClassIndex, Length, Surface

#: A refusal depends on the kind of call and not on its numbers, so a few cases suffice.
ENOUGH = 30


#: The preconditions: an error shows a refusal only if the valid call raises none.
REFUSAL = (small, raises_nothing)


def _refused(
    trial: Trial, breach: str, replaced: dict[str, Any], want: str = "an error"
) -> BaseException:
    """Return the error that an invalid call raises, which may be of any type.

    Args:
        trial: The trial of the valid call.
        breach: What makes the call invalid, for the report.
        replaced: The arguments that make the call invalid.
        want: The expected result, for the report.

    Returns:
        The error.

    Raises:
        Deviation: The call raised no error, or it changed a global setting before it raised one.
    """
    outcome = trial.refusal(**replaced)
    if outcome.error is not None:
        for found in outcome.changed:
            what = f"{breach}: {found.switch.name} was changed before the error was raised"
            raise Deviation(what, found.after, found.before, check=None, replaced=replaced)
        return outcome.error
    got = outcome.value
    if isinstance(got, torch.Tensor):
        got = f"{first_numbers(got, 4)} of shape {list(got.shape)}"
    raise Deviation(
        f"{breach}, yet nothing was raised",
        got,
        want,
        check="error is not None",
        replaced=replaced,
        accepted=True,
    )


def _all_refused(trial: Trial, breaches: Iterable[tuple[str, dict[str, Any]]]) -> bool:
    """Return whether any call was judged; raise Deviation if an invalid call does not raise."""

    def judged(breach: tuple[str, dict[str, Any]]) -> bool:
        _refused(trial, *breach)
        return True

    return any_judged(trial, judged, breaches)


def _has_refused_values(loss: Loss, surface: Surface) -> bool:
    return any(parameter.refused for parameter in loss.parameters.values())


def out_of_range(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield parameters outside their documented range: the breach, and the argument."""
    for name, parameter in trial.loss.parameters_of(trial.form).items():
        if trial.under_test.takes(name) and name not in trial.form.fixed:
            for value in parameter.refused:
                yield f"{name}={value!r} is out of range", {name: value}


@precondition(Excuse.NOT_SUPPORTED)
def _takes_a_bounded_parameter(trial: Trial) -> bool:
    """The implementation takes a parameter with a documented range."""
    return any(True for _ in out_of_range(trial))


@clause(
    _has_refused_values,
    enough=ENOUGH,
    hazard=1,
    requires=[_takes_a_bounded_parameter, *REFUSAL],
)
def refuses_parameters(trial: Trial) -> Judgement:
    """A parameter outside its documented range raises an error, at the latest in the call."""
    breaches = list(out_of_range(trial))
    # Cases start with different values: a value that torch accepts too would hide later ones.
    start = int(trial.expected.losses.size) % len(breaches)
    for breach, replaced in breaches[start:] + breaches[:start]:
        _refused(trial, breach, replaced)
    return True


def _takes_reduction(loss: Loss, surface: Surface) -> bool:
    return len(loss.reductions) > 1 and not loss.returns_every_reduction(surface)


@precondition(Excuse.NOT_SUPPORTED)
def _takes_the_reduction_argument(trial: Trial) -> bool:
    """The implementation takes the argument `reduction`."""
    return trial.under_test.takes("reduction")


@clause(
    _takes_reduction,
    enough=ENOUGH,
    hazard=1,
    requires=[_takes_the_reduction_argument, *REFUSAL],
)
def refuses_reductions(trial: Trial) -> Judgement:
    """A reduction with an unknown name raises an error, and changes no global setting."""
    for name in ("avg", "Mean", ""):
        if name not in trial.loss.reductions:
            _refused(trial, f"reduction={name!r} is unknown", {"reduction": name})
    return True


def _has_classes(loss: Loss, surface: Surface) -> bool:
    return any(
        isinstance(role, ClassIndex) and role.checked
        for form in loss.forms
        for role in form.tensors.values()
    )


def wrong_classes(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield class indices that are neither in [0, C) nor ignored: the breach, and the target."""
    case = trial.case
    sizes = case.axis_sizes(trial.loss)
    for name, role in trial.form.tensors.items():
        if not (isinstance(role, ClassIndex) and role.checked) or not case.tensors[name].size:
            continue
        classes = sizes[role.classes]
        if not classes or case.tensors[name].dtype != np.int64:
            continue
        for index in (classes, -1, -99, classes + 1, 2**40):
            if role.ignored_by and index == case.parameters[role.ignored_by]:
                continue
            # Any negative number may end a list, and indices after the end are not used.
            if role.ends is not None and index < 0:
                continue
            target = case.tensors[name].copy()
            target.flat[0 if role.ends is not None else target.size // 2] = index
            replaced = {name: to_torch(target, device=trial.device)}
            yield f"class index {index} of {classes} classes", replaced


# On an accelerator such a call may make the device unusable.
@clause(_has_classes, only_on="processor", enough=ENOUGH, hazard=3, requires=REFUSAL)
def refuses_classes(trial: Trial) -> Judgement:
    """A class index outside [0, C) that is not ignored raises an error, under every reduction."""
    return _all_refused(trial, wrong_classes(trial))


def misshapen(trial: Trial) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield shapes that break the contract: the breach, the tensors, and if a warning is enough."""
    case, form = trial.case, trial.form
    names = list(form.tensors)
    shape = case.shape
    for name, axes in zip(names, shape.inputs, strict=True):
        array = case.tensors[name]
        for i, axis in enumerate(axes):
            if axis in shape.tied and array.shape[i] > 1:
                longer = np.concatenate([array, array.take([0], i)], i)
                yield f"{name} of shape {list(longer.shape)}", {name: longer}, False
    for name, axes in list(zip(names, shape.inputs, strict=True))[1:]:
        array = case.tensors[name]
        if array.ndim and array.shape[0] > 1 and axes[0] in shape.inputs[0]:
            longer = np.concatenate([array, array[:1]])
            yield f"{name} of shape {list(longer.shape)}", {name: longer}, False
            last = [i for i in range(1, array.ndim) if axes[i] in shape.inputs[0]][-1:]
            if last and array.shape[last[0]] > 1:
                longer = np.concatenate([array, array.take([0], last[0])], last[0])
                yield f"{name} of shape {list(longer.shape)}", {name: longer}, False
            other = np.moveaxis(array[None], 0, 1)  # (N, ...) as (N, 1, ...)
            broadcast = axes == shape.inputs[0] and not shape.core
            if isinstance(form.tensors[name], Length):
                continue  # one length for each sample, in any shape, is not ambiguous
            if broadcast and trial.loss.broadcasts:
                continue
            if other.shape != array.shape and (broadcast or axes == shape.result):
                yield f"{name} of shape {list(other.shape)}", {name: other}, broadcast
        one = array.ndim == 0 and case.tensors[names[0]].ndim == 1
        if one and trial.loss.classes in shape.core:
            two = np.stack([array, array])
            yield f"{name} of shape [2] for one sample", {name: two}, False
    for name, array in case.tensors.items():
        if name in names:
            continue
        declared = trial.loss.options[name].shape or ""
        if declared.startswith("(") and array.size > 1:
            yield f"{name} of shape {[array.size + 1]}", {name: np.append(array, array[:1])}, False


@clause(enough=ENOUGH, hazard=2, requires=[has_elements, *REFUSAL])
def refuses_shapes(trial: Trial) -> Judgement:
    """Shapes that break the contract raise an error, or at least a warning if they broadcast. After
    the warning, the value is that of the broadcast tensors, or as if the shape were right. No
    global setting is changed."""

    def judged(breach: tuple[str, dict[str, Any], bool]) -> bool:
        what, replaced, warning_will_do = breach
        tensors = {n: to_torch(a, device=trial.device) for n, a in replaced.items()}
        first = trial.case.tensors[next(iter(trial.form.tensors))]
        if warning_will_do:
            outcome = trial.refusal(**tensors)
            # A warning that the valid call gives too is not about shapes.
            if outcome.error is None and set(outcome.warnings) - set(trial.outcome.warnings):
                try:
                    _judge_broadcast(trial, what, replaced, outcome)
                except Deviation as deviation:
                    deviation.replaced = tensors
                    raise
                return True
            if outcome.silenced:  # clause `process-state` reports it
                raise NotJudged(Excuse.CALL_FAILS)
        want = "an error, or a warning about broadcasting" if warning_will_do else "an error"
        _refused(trial, f"{what} for an input of shape {list(first.shape)}", tensors, want)
        return True

    return any_judged(trial, judged, misshapen(trial))


def _judge_broadcast(
    trial: Trial, what: str, replaced: Mapping[str, np.ndarray], outcome: Outcome
) -> None:
    """Judge the value of a call that warned about shapes which broadcast, and went on.

    It may also be the value of the valid call, as if the tensor was reshaped.

    Args:
        trial: The trial of the valid call.
        what: The tensor and its shape, in words.
        replaced: The tensor that broadcasts.
        outcome: The outcome of the call.
    """
    case, got = trial.case, trial.number(outcome)
    if got is None or set(case.tensors) != set(trial.form.tensors) or case.shape.core:
        return
    arrays = np.broadcast_arrays(*({**case.tensors, **replaced}).values())
    tensors = {name: array.copy() for name, array in zip(case.tensors, arrays, strict=True)}
    wide = case.with_(tensors=tensors, layouts={}, spread=arrays[0].ndim)
    if "*" not in case.contract or not trial.allows(wide):
        return
    plain = trial.expected.value(case.reduction)
    if got.shape == plain.exact.shape and (plain.error(got) <= 1).all():
        return  # it gave the tensor the shape of the input
    want = SolvedCase(trial.loss, wide).expected.value(case.reduction)
    trial.agree(got, want, f"the value with {what}, after a warning", of=None)


def _refuses_floats(role: ClassIndex) -> bool:
    return role.checked and role.whole


def _has_a_class_each(loss: Loss, surface: Surface) -> bool:
    return any(
        isinstance(role, ClassIndex) and _refuses_floats(role) and not form.lists_classes(contract)
        for form in loss.forms
        for role in form.tensors.values()
        for contract in form.contracts
    )


def floating_classes(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield floating-point class indices whose shape is not that of probabilities."""
    first = trial.case.tensors[next(iter(trial.form.tensors))]
    for name, role in trial.form.tensors.items():
        target = trial.case.tensors[name]
        if not isinstance(role, ClassIndex) or not _refuses_floats(role):
            continue
        if target.size and target.shape != first.shape:
            replaced = {name: to_torch(target.astype(np.float32), device=trial.device)}
            yield f"{name} in float32", replaced


@clause(_has_a_class_each, enough=ENOUGH, hazard=1, requires=REFUSAL)
def refuses_dtypes(trial: Trial) -> Judgement:
    """Class indices in a floating-point dtype raise an error."""
    return _all_refused(trial, floating_classes(trial))


def _has_checked_values(loss: Loss, surface: Surface) -> bool:
    roles = (role for form in loss.forms for role in loss.roles(form).values())
    return any(isinstance(role, Constrained) and role.checked for role in roles)


def wrong_values(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield tensors that break the structure that their role demands: the breach, the tensor."""
    case = trial.case
    for name, role in trial.loss.roles(trial.form).items():
        if not (isinstance(role, Constrained) and role.checked) or name not in case.tensors:
            continue
        array = case.tensors[name]
        axes = axes_of(trial.loss, trial.form, case.shape, name, array.ndim)
        for breach, wrong in role.breaches(array, role.axis(axes)):
            yield f"{name} holds {breach}", {name: to_torch(wrong, device=trial.device)}


@clause(_has_checked_values, only_on="processor", enough=ENOUGH, hazard=1, requires=REFUSAL)
def refuses_values(trial: Trial) -> Judgement:
    """Numbers that break the structure of a tensor, such as a box whose sides are swapped, raise an
    error if the spec says that they are checked."""
    return _all_refused(trial, wrong_values(trial))


def _broken(trial: Trial) -> Iterator[tuple[Refusal, dict[str, Any]]]:
    """Yield each refusal of the spec that a change of the call breaks, and the new arguments."""
    roles, given = trial.loss.roles(trial.form), trial.case.parameters
    for refusal in trial.loss.refusals:
        invalid = broken(trial.loss, trial.case, refusal)
        if invalid is None:
            continue
        replaced: dict[str, Any] = {
            name: argument(roles[name], array, device=trial.device)
            for name, array in invalid.tensors.items()
            if not _same(array, trial.case.tensors.get(name))
        }
        parameters = invalid.parameters
        replaced |= {n: v for n, v in parameters.items() if n not in given or v != given[n]}
        if all(trial.under_test.takes(n) for n in parameters if n in replaced):
            yield refusal, replaced


def ruled_out(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the calls that the spec rules out: the breach, and the arguments."""
    return ((refusal.says, replaced) for refusal, replaced in _broken(trial))


@clause(lambda loss, surface: bool(loss.refusals), enough=ENOUGH, hazard=1, requires=REFUSAL)
def refuses_calls(trial: Trial) -> Judgement:
    """Every call that the spec rules out raises an error of an allowed type, which is no assert
    without a message."""

    def judged(ruled: tuple[Refusal, dict[str, Any]]) -> bool:
        refusal, replaced = ruled
        error = _refused(trial, refusal.says, replaced, _wanted(refusal))
        # Such an error does not explain the problem, and `python -O` removes the assert.
        if isinstance(error, AssertionError) and not str(error).strip():
            raise Deviation(
                f"{refusal.says}: an assert without a message",
                "AssertionError",
                "an error that says what is wrong",
                check="not isinstance(error, AssertionError) or str(error)",
                replaced=replaced,
            )
        if refusal.types and not isinstance(error, refusal.types):
            names = [kind.__name__ for kind in refusal.types]
            told = type(error).__name__, str(error)[:200]
            raise Deviation(
                f"{refusal.says}: the type of the error",
                ": ".join(told),
                _wanted(refusal),
                check=f"{{kind.__name__ for kind in type(error).__mro__}} & set({names})",
                replaced=replaced,
                raised=told,
            )
        return True

    return any_judged(trial, judged, _broken(trial))


def _wanted(refusal: Refusal) -> str:
    """Return the expected outcome of a call that the spec refuses, for the report."""
    return " or ".join(kind.__name__ for kind in refusal.types) or "an error"


def _same(x: Any, y: Any) -> bool:
    return (
        isinstance(x, np.ndarray)
        and isinstance(y, np.ndarray)
        and x.shape == y.shape
        and x.dtype == y.dtype
        and x.tobytes() == y.tobytes()
    )


def _as_arrays(trial: Trial) -> dict[str, Any]:
    """Return the tensors of a call that NumPy arrays may replace."""
    roles = trial.loss.roles(trial.form)
    return {
        name: array
        for name, array in trial.case.tensors.items()
        if not roles[name].scalar and not roles[name].state and array.dtype.kind in "fi"
    }


@precondition()
def _numpy_has_its_dtype(trial: Trial) -> bool:
    """The call is not in bfloat16, which NumPy lacks."""
    return trial.case.dtype != "bfloat16"


@precondition()
def _has_tensors_for_arrays(trial: Trial) -> bool:
    """The call has a tensor that a NumPy array may replace."""
    return bool(_as_arrays(trial))


@clause(
    enough=3,
    requires=[*REFUSAL, _numpy_has_its_dtype, _has_tensors_for_arrays, works, conforms],
)
def arrays(trial: Trial) -> Judgement:
    """With NumPy arrays in place of tensors, a call raises an error or gives the right value and
    dtype."""
    replaced = _as_arrays(trial)
    outcome = trial.attempt(**replaced)
    value = outcome.value
    if not isinstance(value, torch.Tensor):
        return True  # it raised, or returned a NumPy result, which is not judged
    if dtype_of(value) != trial.case.dtype:
        raise Deviation(
            "the result's dtype for NumPy arrays",
            dtype_of(value),
            f"a TypeError, or {trial.case.dtype}",
            check=None,
            replaced=replaced,
        )
    want = trial.expected.value(trial.case.reduction)
    return trial.agree(to_extended(value), want, "the value for NumPy arrays", of=None)
