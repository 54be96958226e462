"""Clauses on dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause
from lossspec.clauses.ability import lacking, raised
from lossspec.clauses.precondition import (
    conforms,
    in_float32,
    precondition,
    returns_tensor,
    uses_options,
    works,
)
from lossspec.clauses.trial import (
    Deviation,
    NotJudged,
    Trial,
    Unsupported,
    any_judged,
    failed,
)
from lossspec.dtypes import precision
from lossspec.excuse import Excuse
from lossspec.execution.call import unsupported_argument
from lossspec.execution.declaration import Ability
from lossspec.execution.messages import drops_imaginary_part, loss_kernels, refuses_autocast
from lossspec.execution.outcome import Outcome, perform, unimplemented
from lossspec.execution.tensors import dtype_of, to_extended, torch_dtype
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Distribution, Role, Surface

#: A wider dtype for each dtype: it holds every number of the narrower one.
WIDER = {"float16": "float32", "bfloat16": "float32", "float32": "float64"}


#: The complex dtype for each real dtype.
COMPLEX = {"float32": np.complex64, "float64": np.complex128}


@precondition()
def _has_a_wider_dtype(trial: Trial) -> bool:
    """The device supports a wider dtype than that of the case."""
    return trial.case.dtype in WIDER and trial.holds(WIDER[trial.case.dtype])


@precondition()
def _has_a_complex_dtype(trial: Trial) -> bool:
    """The device supports the complex dtype that belongs to the dtype of the case."""
    dtype = COMPLEX.get(trial.case.dtype)
    return dtype is not None and trial.holds(dtype.__name__)


@clause(empty=True, requires=(returns_tensor,))
def result_dtype(trial: Trial) -> Judgement:
    """The result has the dtype of the inputs."""
    value = trial.outcome.value
    if dtype_of(value) != trial.case.dtype:
        raise Deviation(
            "the result's dtype",
            dtype_of(value),
            trial.case.dtype,
            check=f"value.dtype == torch.{trial.case.dtype}",
        )
    return True


@clause(enough=20, requires=(_has_a_wider_dtype, works, conforms))
def mixed_dtypes(trial: Trial) -> Judgement:
    """With one tensor in a wider dtype, the forward raises, or value and gradients are right."""
    case = trial.case
    roles = trial.loss.roles(trial.form)
    wider = precision(WIDER[case.dtype]).numpy
    declared = trial.under_test.declares(Ability.MIXED_DTYPES)
    judged, refused = False, ""
    real = [n for n in case.tensors if not (roles[n].integer or roles[n].scalar)]
    for name in real:
        array = case.tensors[name]
        mixed = case.with_(tensors={**case.tensors, name: array.astype(wider)})
        outcome = perform(trial.under_test, mixed, trial.device)
        refuses = outcome.phase != "backward" or unimplemented(outcome.error)
        when = f"with {name} in {WIDER[case.dtype]}"
        if outcome.error is not None and (refuses or _inherited(trial)):
            refused = f"it does not take {name} in another dtype than the rest"
            if declared:
                way = f"{outcome.phase} {when}"
                raise raised(trial, Ability.MIXED_DTYPES, outcome.error, way, case=mixed)
        else:
            _right(trial, outcome, trial.expected, when, mixed)
            judged = True
    if not judged:
        if refused:
            raise lacking(trial, Ability.MIXED_DTYPES, refused)
        raise NotJudged(Excuse.NOT_ABOUT, "the case has no floating-point tensor")
    return True


def _whole(trial: Trial) -> dict[str, np.ndarray]:
    """Return the data of a call, rounded to whole numbers, where their roles allow these."""
    found = {}
    for name, role in trial.form.tensors.items():
        array = trial.case.tensors[name]
        if _is_data(role) and array.size and np.isfinite(array).all():
            numbers = np.rint(array.astype(np.float64))
            if role.contains(numbers).all() and np.abs(numbers).max() < 2**53:
                found[name] = numbers
    return found


@precondition()
def _has_whole_data(trial: Trial) -> bool:
    """A tensor of data, such as counts or labels, may hold whole numbers."""
    return bool(_whole(trial))


def _is_data(role: Role) -> bool:
    """Return whether a tensor holds real numbers that are not learned, such as counts."""
    learned = role.learned and role.differentiable
    free = not isinstance(role, Constrained | Distribution)
    return free and not (learned or role.integer or role.scalar)


def _has_data(loss: Loss, surface: Surface) -> bool:
    return any(_is_data(role) for form in loss.forms for role in form.tensors.values())


# In float32 only, since torch computes logarithms of integers in its default dtype.
@clause(_has_data, enough=40, requires=(in_float32, _has_whole_data, works, conforms))
def integer_data(trial: Trial) -> Judgement:
    """With counts or labels in int64 beside float32, the call raises, or the value and the
    gradients are right. The same holds for uint8 if torch's loss takes it."""
    parts: list[tuple[str, np.ndarray, type[np.integer]]] = []
    parts += [(name, whole, np.int64) for name, whole in _whole(trial).items()]
    parts += [(name, whole, np.uint8) for name, whole in _whole_of_bytes(trial).items()]
    return any_judged(trial, lambda part: _with_integers(trial, *part), parts)


def _whole_of_bytes(trial: Trial) -> dict[str, np.ndarray]:
    """Return the data of a call in whole numbers that uint8 holds, if torch's loss takes it.

    Careful losses negate their data, which wraps in uint8, but torch refuses uint8 for most losses.
    """
    torchs = torch_counterpart(trial.loss, trial.under_test.surface)
    found = {}
    for name, whole in _whole(trial).items():
        if trial.form.tensors[name].low < 0 or whole.max() > np.iinfo(np.uint8).max:
            continue
        tensors = {**trial.case.tensors, name: whole.astype(np.uint8)}
        given = trial.case.with_(tensors=tensors, requires_grad=())
        if torchs is not None and perform(torchs, given, trial.device).error is None:
            found[name] = whole
    return found


def _with_integers(trial: Trial, name: str, whole: np.ndarray, dtype: type[np.integer]) -> bool:
    """Judge a call that gets one of its tensors, rounded to whole numbers, in an integer dtype."""
    case = trial.case
    held = whole.astype(case.tensors[name].dtype)
    rounded = case.with_(
        tensors={**case.tensors, name: held},
        requires_grad=tuple(each for each in case.requires_grad if each != name),
    )
    if not trial.allows(rounded) or not (held == whole).all():
        raise NotJudged(Excuse.NOT_ABOUT)
    given = rounded.with_(tensors={**case.tensors, name: whole.astype(dtype)})
    outcome = perform(trial.under_test, given, trial.device)
    if outcome.error is not None:
        raise Unsupported(f"it does not take whole numbers in {dtype.__name__}")
    solved = trial.solved.changed(rounded)
    _right(trial, outcome, solved.expected, f"with {name} in {dtype.__name__}", given)
    return True


def _inherited(trial: Trial) -> bool:
    """Return whether the loss calls the kernel of another loss of torch, with its limits."""
    torchs = torch_counterpart(trial.loss, trial.under_test.surface)
    if torchs is None:
        return False
    own = perform(torchs, trial.case, trial.device).value
    if not isinstance(own, torch.Tensor):
        return False
    return bool(loss_kernels(trial.outcome.value) - loss_kernels(own))


def _right(trial: Trial, outcome: Outcome, expected: Expected, when: str, case: Case) -> None:
    """Raise Deviation if the call raised, or if its value or a gradient is wrong."""
    got = trial.number(outcome)
    if got is not None:
        trial.agree(got, expected.value(case.reduction), f"the value {when}", case=case)
    if outcome.error is not None:
        raise failed(
            f"{outcome.phase} {when}", outcome.error, "a gradient", check="error is None", case=case
        )
    if got is None:
        return
    for name, want in expected.gradients().items():
        gradient = outcome.gradients.get(name)
        if gradient is not None:
            trial.agree(
                to_extended(gradient),
                want,
                f"the gradient of {name} {when}",
                of=f"gradients[{name!r}]",
                case=case,
                gradient_of=name,
            )


#: The default dtype of torch.autocast on a processor.
LOW = "bfloat16"


@clause(enough=20, requires=(in_float32, works, conforms))
def autocast(trial: Trial) -> Judgement:
    """Under `torch.autocast` to bfloat16, the call and its backward work, and the value is right to
    the precision of bfloat16, also with each switch turned on."""
    return any_judged(trial, partial(_under_autocast, trial), [trial.case, *_switched_on(trial)])


def _switched_on(trial: Trial) -> Iterator[Case]:
    """Yield the call with each switch turned on that is off."""
    case, known = trial.case, trial.loss.parameters_of(trial.form)
    for name in known:
        if case.parameters[name] is False and name not in trial.form.fixed:
            on = case.with_(
                parameters={**case.parameters, name: True}, omitted=case.omitted - {name}
            )
            if trial.allows(on) and unsupported_argument(trial.under_test, on) is None:
                yield on


def _under_autocast(trial: Trial, case: Case) -> bool:
    """Judge a call under autocast; return whether it uses an option."""
    kind = torch.device(trial.device).type
    with torch.autocast(kind, dtype=torch_dtype(LOW)):
        outcome = perform(trial.under_test, case, trial.device)
    if outcome.error is not None:
        if case is not trial.case and perform(trial.under_test, case, trial.device).error:
            raise NotJudged(Excuse.CALL_FAILS)  # clause `accepts` reports it
        way = f"{outcome.phase} under autocast"
        if trial.under_test.declares(Ability.AUTOCAST) or refuses_autocast(outcome.error):
            lack = "it does not work with torch.autocast"
            raise raised(trial, Ability.AUTOCAST, outcome.error, way, lack)
        raise failed(way, outcome.error, case=case)
    got = trial.number(outcome)
    if got is None:
        raise NotJudged(Excuse.CALL_FAILS, "under autocast the call returns no readable tensor")
    solved = trial.solved if case is trial.case else trial.solved.changed(case)
    want = solved.expected.value(case.reduction)
    if got.shape == want.exact.shape and (want.error(got) > 1).any():
        # Under autocast, torch computes matrix products in the lower precision.
        want = SolvedCase(trial.loss, case.with_(dtype=LOW)).expected.value(case.reduction)
    trial.agree(got, want, "the value under autocast", of=None, case=case)
    return case is not trial.case or uses_options(trial)


def _complex(loss: Loss, surface: Surface) -> bool:
    return loss.complex


#: A complex factor that rounds no number, since it copies it to both parts; and its magnitude.
TURN, SIZE = 1 + 1j, np.sqrt(np.longdouble(2))


@contextmanager
def _every_warning() -> Iterator[None]:
    """Make torch repeat the warnings that it gives only once in a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        yield
    finally:
        torch.set_warn_always(before)


# A right loss may add the squares of both parts, where torch's absolute value does not.
@precondition(Excuse.OVERFLOW)
def _squares_in_range(trial: Trial) -> bool:
    """The squares of the complex inputs do not overflow."""
    arrays = [trial.case.tensors[name] for name in trial.form.tensors]
    top = max((float(np.abs(a.astype(np.float64)).max()) for a in arrays if a.size), default=0.0)
    # The squared length of (1 + i)(x - y) is at most 8 times the square of the largest number.
    return bool(top < np.sqrt(precision(trial.case.dtype).largest / 8))


@clause(_complex, enough=20, requires=(_has_a_complex_dtype, _squares_in_range, works, conforms))
def complex_inputs(trial: Trial) -> Judgement:
    """With all inputs multiplied by 1 + i, the loss is multiplied by √2 and each gradient by
    (1 + i) / √2."""
    case = trial.case
    kind = COMPLEX[case.dtype]
    turned = {
        name: torch.from_numpy(np.asarray(case.tensors[name] * kind(TURN))).to(trial.device)
        for name in trial.form.tensors
    }
    for name in case.requires_grad:
        turned[name].requires_grad_()
    with _every_warning():
        outcome = perform(trial.under_test, case, trial.device, replaced=turned)
    unknown = drops_imaginary_part(outcome.warnings)
    if outcome.error is not None:
        lack = "it takes no complex numbers"
        raise raised(trial, Ability.COMPLEX, outcome.error, "a call with complex inputs", lack)
    if unknown or not isinstance(outcome.value, torch.Tensor):
        why = "it takes no complex numbers: it drops the imaginary part or returns no tensor"
        raise lacking(trial, Ability.COMPLEX, why, "complex inputs lose their imaginary part")
    got = to_extended(outcome.value.real if outcome.value.is_complex() else outcome.value)
    want = trial.expected.value(case.reduction)
    informative = trial.agree(got / SIZE, want, "the loss of complex inputs", of=None)
    slopes = trial.expected.gradients()
    present = {n: found for n in slopes if (found := outcome.gradients[n]) is not None}
    for name, gradient in present.items():
        slope = slopes[name]
        back = gradient.cpu().to(torch.complex128) * (TURN.conjugate() / float(SIZE))
        trial.agree(to_extended(back.real), slope, f"the gradient of complex {name}", of=None)
        none = replace(slope, exact=0 * slope.exact, low=0 * slope.low, high=0 * slope.high)
        trial.agree(
            to_extended(back.imag), none, f"the gradient of complex {name}, perpendicular", of=None
        )
    return informative
