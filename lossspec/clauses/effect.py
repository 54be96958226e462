"""Clauses on side effects of a call and on repeated calls."""

from __future__ import annotations

import gc
import random
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from lossspec.cases.axes import part_along
from lossspec.cases.case import Case
from lossspec.cases.contracts import in_other_contracts
from lossspec.clauses import Judgement, clause, of_elements, stateless
from lossspec.clauses.precondition import (
    can_be_cut,
    conforms,
    differentiable_twice,
    first_axis,
    precondition,
    raises_nothing,
    several_along_first_axis,
    wants_gradients,
    works,
)
from lossspec.clauses.trial import (
    Deviation,
    NotJudged,
    Trial,
    plain_trial,
    repeated_result,
    returned,
    tensor_of,
)
from lossspec.dtypes import dtype_name
from lossspec.excuse import Excuse
from lossspec.execution.call import Call, arguments, constructed, handed, ready
from lossspec.execution.devices import accelerates
from lossspec.execution.global_state import other_settings, preserved
from lossspec.execution.outcome import Outcome, backward_from, differentiable, perform
from lossspec.execution.tensors import first_numbers, same_bits, to_extended
from lossspec.spec.roles import ClassIndex


@clause(empty=True)
def inputs_untouched(trial: Trial) -> Judgement:
    """A call and its backward change no bit of the inputs or of the cotangent, and no argument that
    is a list."""
    plain = trial.case.with_(requires_grad=())
    outcomes: list[tuple[Case | None, Outcome]] = [(None, trial.outcome)]
    if trial.case.requires_grad:  # without gradients, losses reuse memory more often
        outcomes.append((plain, perform(trial.under_test, plain, trial.device)))
    for case, outcome in outcomes:
        for name in outcome.touched():
            raise Deviation(
                f"{name} was written to",
                first_numbers(outcome.inputs[name], 8),
                first_numbers(outcome.before[name], 8),
                check=f"same_bits(inputs[{name!r}], before[{name!r}])",
                case=case,
            )
        for name, (after, before) in outcome.lists.items():
            if after != before:
                what = f"the list {name} was changed"
                raise Deviation(what, after, before, check=None, case=case)
        if outcome.written is not None:
            raise Deviation(
                "the cotangent was written to in backward",
                *(first_numbers(tensor, 8) for tensor in outcome.written),
                check=None,
                case=case,
            )
    return True


@clause(enough=10, requires=[wants_gradients, works, raises_nothing, conforms])
def computed_inputs(trial: Trial) -> Judgement:
    """If the tensors are results of other operations, as in a network, the call and its backward
    change none of them, and the value and the gradients are right."""
    plain = plain_trial(trial)
    if plain.outcome.error is None:
        _judge_computed(plain)
    return _judge_computed(trial)


def _judge_computed(trial: Trial) -> bool:
    """Call a case with results of other operations; return whether it was judged closely."""
    case, call = trial.case, Call.of(trial.under_test, trial.case)
    leaves = arguments(trial.under_test, case, trial.device)
    computed = {n: leaves[n].clone() for n in case.requires_grad if n not in call.owned}
    tensors = leaves | computed
    with preserved():
        made = call.constructed(tensors)
        kept = {name: tensor.detach().clone() for name, tensor in computed.items()}
        value = tensor_of(lambda: made(call.handed(tensors)), "a call with computed tensors")
    if differentiable(value):
        returned(lambda: backward_from(value, case), "backward to computed tensors")
    for name, tensor in computed.items():
        if not same_bits(tensor.detach(), kept[name]):
            pair = first_numbers(tensor.detach(), 8), first_numbers(kept[name], 8)
            what = f"{name}, the result of another operation, was written to"
            raise Deviation(what, *pair, check=None, case=case)
    want = trial.expected.value(case.reduction)
    what = "of tensors that are results of other operations"
    informative = trial.agree(to_extended(value), want, f"the value {what}", of=None, case=case)
    for name, right in trial.expected.gradients().items():
        gradient = leaves[name].grad if name in computed else None
        if gradient is None:
            continue  # clause `gradient` reports a missing gradient
        got = to_extended(gradient.reshape(case.tensors[name].shape))
        what_of = f"the gradient of {name} {what}"
        informative |= trial.agree(got, right, what_of, of=None, case=case, gradient_of=name)
    return informative


@clause(enough=40, requires=[works])
def second_call(trial: Trial) -> Judgement:
    """A second call gives the same bits, gradients included, and keeps the first result intact."""
    call, inputs = ready(trial.under_test, trial.case, trial.device)
    first = call()
    kept = first.detach().clone()
    gradients = _gradients(trial, first, inputs)
    second = tensor_of(call, "the second call")
    again_gradients = returned(
        lambda: _gradients(trial, second, inputs),
        "the second call's backward",
        "the same gradients",
    )
    for name, again in again_gradients.items():
        if not same_bits(again, gradients[name]):
            raise Deviation(
                f"the second call's gradient of {name}",
                first_numbers(again, 4),
                first_numbers(gradients[name], 4),
                check=None,
                repeated=repeated_result(
                    again, gradients[name], trial.expected.gradients().get(name)
                ),
            )
    want = trial.expected.value(trial.case.reduction)
    for what, got, bounded in (
        ("the second call's result", second.detach(), want),
        ("the first result after a second call", first.detach(), None),
    ):
        if not same_bits(got, kept):
            raise Deviation(
                what,
                first_numbers(got, 4),
                first_numbers(kept, 4),
                check="same_bits(call().detach(), call().detach())",
                repeated=repeated_result(got, kept, bounded),
            )
    return True


@clause(of_elements, enough=20, requires=[several_along_first_axis, can_be_cut, works, conforms])
def other_calls(trial: Trial) -> Judgement:
    """Calls with other numbers, sizes, shape contracts or dtypes do not change the value of a later
    call."""
    contracts = [other for other in _of_other_contracts(trial) if trial.allows(other)]
    others = [other for other in _others(trial) if trial.allows(other)]
    if trial.under_test.surface == "function":
        return _after(trial, contracts + others)
    # A module may keep what its first call shows.
    informative = [_after(trial, [first]) for first in contracts]
    return any([*informative, _after(trial, others)])


def _after(trial: Trial, others: list[Case]) -> bool:
    """Judge the value of a call of the function or of a new module, after other calls of it."""
    case = trial.case
    tensors = arguments(trial.under_test, case, trial.device)
    call = constructed(trial.under_test, case, tensors, {})
    for other in others:
        # These calls only prepare the next one; the shape of an option may rule one of them out.
        with suppress(Exception):
            call(handed(trial.under_test, other, arguments(trial.under_test, other, trial.device)))
    given = handed(trial.under_test, case, tensors)
    value = tensor_of(lambda: call(given), "the call after other calls")
    want = trial.expected.value(case.reduction)
    return trial.agree(to_extended(value), want, "the value after other calls", of=None)


def _of_other_contracts(trial: Trial) -> list[Case]:
    """Return calls in other shape contracts, which the constructor's tensors may not fit."""
    call = Call.of(trial.under_test, trial.case)
    if trial.under_test.surface == "class" and (call.owned or call.tensor_keywords):
        return []
    return list(in_other_contracts(trial.loss, trial.case))


def _others(trial: Trial) -> list[Case]:
    """Return calls with fewer rows and classes, in a narrower dtype, and with reversed rows."""
    case, axis = trial.case, first_axis(trial)
    assert axis is not None
    size = case.axis_sizes(trial.loss)[axis]
    return [
        part_along(trial.loss, _fewer_classes(trial), axis, np.arange(size // 2)),
        _narrower(case),
        part_along(trial.loss, case, axis, np.arange(size)[::-1]),
    ]


def _fewer_classes(trial: Trial) -> Case:
    """Return the case without its last class, and unchanged if it has fewer than two classes."""
    case, axis = trial.case, trial.loss.classes
    classes = case.axis_sizes(trial.loss).get(axis, 0)
    if classes < 2:
        return case
    fewer = part_along(trial.loss, case, axis, np.arange(classes - 1))
    tensors = dict(fewer.tensors)
    for name, role in trial.form.tensors.items():
        if isinstance(role, ClassIndex):
            index = tensors[name]
            tensors[name] = np.where(index == classes - 1, 0, index).astype(index.dtype)
    return fewer.with_(tensors=tensors)


def _narrower(case: Case) -> Case:
    """Return the case with half as many bits in each floating-point number."""
    with np.errstate(over="ignore"):
        return case.with_(
            tensors={
                name: array.astype(np.float16 if case.dtype == "float32" else np.float32)
                if dtype_name(array) in ("float32", "float64")
                else array
                for name, array in case.tensors.items()
            }
        )


def _gradients(
    trial: Trial, value: torch.Tensor, inputs: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the gradients of a result by name; none if the case has no backward."""
    if not value.requires_grad or trial.outcome.error is not None:
        return {}
    backward_from(value, trial.case)
    found = {name: tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}
    for tensor in inputs.values():
        tensor.grad = None
    return found


def _random_states(device: str) -> dict[str, bytes]:
    """Return the states of the generators of torch, NumPy, Python and the device, if it has one."""
    numpy: Any = np.random.get_state()
    states = {
        "torch's": torch.get_rng_state().numpy(force=True).tobytes(),
        "numpy's": repr((numpy[1].tobytes(), *numpy[2:])).encode(),
        "Python's": repr(random.getstate()).encode(),
    }
    if accelerates(device):
        own = getattr(torch.get_device_module(device), "get_rng_state", None)
        if own is not None:
            states["the device's"] = own().numpy(force=True).tobytes()
    return states


def _draw(device: str) -> None:
    """Advance every generator, so that a call that seeds it again changes its state."""
    torch.rand(1)
    torch.rand(1, device=device)
    np.random.random()
    random.random()


#: For a script: whether a call leaves the state of torch's generator unchanged.
_UNDRAWN = (
    "torch.equal(*[(torch.rand(1), torch.get_rng_state())[1], call(), torch.get_rng_state()][::2])"
)


@clause(stateless, enough=40)  # a class with trainable parameters draws their initial values
def random_state(trial: Trial) -> Judgement:
    """A call changes no random generator (torch, NumPy, Python) and no global setting of torch
    (grad mode, default dtype, threads, determinism, anomaly detection, autocast)."""
    for found in trial.outcome.changed:
        check = f"{found.switch.code} == {found.before!r}"
        raise Deviation(f"{found.switch.name} was changed", found.after, found.before, check=check)
    if not trial.worked:
        raise NotJudged(Excuse.CALL_FAILS)
    with other_settings():  # resetting a setting to its default is a change too
        again = perform(trial.under_test, trial.case, trial.device, backward=False)
    for found in again.changed:
        what = f"{found.switch.name}, set to another value than its default, was changed"
        raise Deviation(what, found.after, found.before, check=None)
    _judge_draws(trial, trial.case)
    longer = _of_new_size(trial)
    if longer is not None:
        _judge_draws(trial, longer, may_raise=True)
    return True


def _judge_draws(trial: Trial, case: Case, may_raise: bool = False) -> None:
    """Raise Deviation if a call changes the state of a random generator.

    Args:
        trial: The trial.
        case: The call.
        may_raise: Whether the call may raise an error, which is not judged here. Its constructor
            may not.
    """
    call, _ = ready(trial.under_test, case, trial.device)  # a constructor may draw numbers
    _draw(trial.device)
    before = _random_states(trial.device)
    try:
        call()
    except Exception:
        if not may_raise:
            raise
    after = _random_states(trial.device)
    for whose, state in before.items():
        if after[whose] != state:
            raise Deviation(
                f"{whose} random generator was changed",
                "another state",
                "the state before the call",
                check=_UNDRAWN if whose == "torch's" and case is trial.case else None,
                case=case,
            )


def _of_new_size(trial: Trial) -> Case | None:
    """Return a call with a number of rows that is seldom drawn, since a first call may differ."""
    axis = first_axis(trial)
    if axis is None or not trial.separable:
        return None
    size = trial.case.axis_sizes(trial.loss)[axis]
    if not 0 < size <= 64:
        return None
    longer = part_along(trial.loss, trial.case, axis, np.arange(3 * size + 2) % size)
    return longer.with_(layouts={}) if trial.allows(longer) else None


@precondition()
def _has_numbers(trial: Trial) -> bool:
    """The result has at least one number."""
    return bool(trial.outcome.value.numel())


@clause(enough=40, requires=[works, _has_numbers])
def own_memory(trial: Trial) -> Judgement:
    """The result shares no memory with any input."""
    elements = trial.case.with_(requires_grad=(), reduction="none")
    outcomes = [trial.outcome]
    if trial.can("none"):  # without gradients, losses reuse memory more often
        outcomes.append(perform(trial.under_test, elements, trial.device))
    for outcome in (each for each in outcomes if isinstance(each.value, torch.Tensor)):
        memory = outcome.value.untyped_storage().data_ptr()
        for name, tensor in outcome.inputs.items():
            if tensor.numel() and tensor.untyped_storage().data_ptr() == memory:
                raise Deviation(
                    f"the result shares memory with {name}",
                    "shared memory",
                    "its own memory",
                    check=f"value.data_ptr() != inputs[{name!r}].data_ptr()",
                    case=None if outcome is trial.outcome else elements,
                )
    return True


@clause(enough=10, requires=[works, raises_nothing])
def graph_freed(trial: Trial) -> Judgement:
    """After the call and its backward, no reference cycle, no kept graph and no module or function
    that lives on keeps the inputs alive."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        kept = _kept_alive(trial)
    finally:
        if collecting:
            gc.enable()
    if kept:
        raise Deviation(
            f"{kept[0]} is still alive after its last use", "alive", "freed", check=None
        )
    return True


def _kept_alive(trial: Trial) -> list[str]:
    """Return the names of the tensors that live on after a call: first beside the module."""
    call = Call.of(trial.under_test, trial.case)
    tensors = arguments(trial.under_test, trial.case, trial.device)
    with preserved():
        made = call.constructed(tensors)
        given = call.handed(tensors)
        passed = {each.name for each in call.positional}
        refs = [
            (name, weakref.ref(tensor))
            for holder in (tensors, given)
            for name, tensor in holder.items()
            if isinstance(tensor, torch.Tensor)
        ]
        value = made(given)
    if differentiable(value):
        backward_from(value, trial.case)
    del value, given, tensors
    kept = [name for name, ref in refs if name in passed and ref() is not None]
    del made
    return kept or [name for name, ref in refs if ref() is not None]


@clause(enough=40, requires=[wants_gradients, differentiable_twice, works, raises_nothing])
def second_backward(trial: Trial) -> Judgement:
    """With `retain_graph=True`, a second backward repeats the gradients of the first."""
    case = trial.case
    call, inputs = ready(trial.under_test, case, trial.device)
    value = call()
    if not value.requires_grad:
        raise NotJudged(Excuse.NOT_DIFFERENTIABLE)
    try:
        backward_from(value, case, retain_graph=True)
    except Exception:  # such as a graph compiled with donated buffers
        raise NotJudged(Excuse.NOT_SUPPORTED, "backward refuses retain_graph=True") from None
    once = {
        name: inputs[name].grad.clone()
        for name in case.requires_grad
        if inputs[name].grad is not None
    }
    for tensor in inputs.values():
        tensor.grad = None
    returned(lambda: backward_from(value, case), "a second backward", "the same gradients")
    for name, first in once.items():
        second = inputs[name].grad
        if second is None or not same_bits(second + 0, first + 0):  # adding 0 makes -0 equal to 0
            got = None if second is None else first_numbers(second, 4)
            raise Deviation(
                f"the gradient of {name} in a second backward",
                got,
                first_numbers(first, 4),
                check=None,
                repeated=None
                if second is None
                else repeated_result(second, first, trial.expected.gradients().get(name)),
            )
    return True
