"""Clauses on what a call leaves behind."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from lossspec.cases.axes import part_along
from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause, stateless
from lossspec.clauses.precondition import (
    conforms,
    differentiable_twice,
    first_axis,
    precondition,
    raises_nothing,
    separable,
    several_along_first_axis,
    wants_gradients,
    works,
)
from lossspec.clauses.trial import Deviation, NotJudged, Trial, failed, returned
from lossspec.dtypes import dtype_name
from lossspec.excuse import Excuse
from lossspec.execution.call import arguments, constructed, handed, ready
from lossspec.execution.devices import accelerates
from lossspec.execution.global_state import other_settings
from lossspec.execution.outcome import Outcome, backward_from, perform
from lossspec.execution.tensors import first_numbers, same_bits, to_extended
from lossspec.spec.roles import ClassIndex


@clause(empty=True)
def inputs_untouched(trial: Trial) -> Judgement:
    """A call and its backward leave every bit of the inputs and the upstream gradient as it was."""
    plain = trial.case.with_(requires_grad=())
    outcomes: list[tuple[Case | None, Outcome]] = [(None, trial.outcome)]
    if trial.case.requires_grad:  # where nothing needs a gradient, memory is reused most
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
        if outcome.written is not None:
            raise Deviation(
                "the gradient from upstream was written to",
                *(first_numbers(tensor, 8) for tensor in outcome.written),
                check=None,
                case=case,
            )
    return True


@clause(enough=40, requires=[works])
def second_call(trial: Trial) -> Judgement:
    """The same call again gives the same bits, gradients too, and leaves the first as it was."""
    call, inputs = ready(trial.under_test, trial.case, trial.device)
    first = call()
    kept = first.detach().clone()
    slopes = _slopes(trial, first, inputs)
    second = returned(call, "the second call")
    again_slopes = returned(
        lambda: _slopes(trial, second, inputs), "the second call's backward", "the same gradients"
    )
    for name, again in again_slopes.items():
        if not same_bits(again, slopes[name]):
            raise Deviation(
                f"the second call's gradient of {name}",
                first_numbers(again, 4),
                first_numbers(slopes[name], 4),
                check=None,
            )
    for what, got in (
        ("the second call's result", second.detach()),
        ("the first result after a second call", first.detach()),
    ):
        if not same_bits(got, kept):
            raise Deviation(
                what,
                first_numbers(got, 4),
                first_numbers(kept, 4),
                check="same_bits(call().detach(), call().detach())",
            )
    return True


@clause(enough=20, requires=[several_along_first_axis, separable, works, conforms])
def other_calls(trial: Trial) -> Judgement:
    """Calls with other numbers, of other sizes or another dtype, change nothing for later ones."""
    case = trial.case
    tensors = arguments(trial.under_test, case, trial.device)
    call = constructed(trial.under_test, case, tensors, {})
    for other in filter(trial.allows, _others(trial)):
        # What an option's shape rules out is no call that anything could be told by.
        with suppress(Exception):
            call(handed(trial.under_test, other, arguments(trial.under_test, other, trial.device)))
    given = handed(trial.under_test, case, tensors)
    value = returned(lambda: call(given), "the call after other calls")
    want = trial.expected.value(case.reduction)
    return trial.agree(to_extended(value), want, "the value after other calls", of=None)


def _others(trial: Trial) -> list[Case]:
    """Other calls; what each has kept, the next one of its size may be given."""
    case, axis = trial.case, first_axis(trial)
    assert axis is not None
    size = case.axis_sizes(trial.loss)[axis]
    return [
        part_along(trial.loss, _fewer_classes(trial), axis, np.arange(size // 2)),
        _narrower(case),
        part_along(trial.loss, case, axis, np.arange(size)[::-1]),
    ]


def _fewer_classes(trial: Trial) -> Case:
    """The case with one class less, where it has two; nothing is a target of that one."""
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
    """The case with half as many bits in each floating number."""
    with np.errstate(over="ignore"):
        return case.with_(
            tensors={
                name: array.astype(np.float16 if case.dtype == "float32" else np.float32)
                if dtype_name(array) in ("float32", "float64")
                else array
                for name, array in case.tensors.items()
            }
        )


def _slopes(
    trial: Trial, value: torch.Tensor, inputs: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The gradients of one result, those that its call has."""
    if not value.requires_grad or trial.outcome.error is not None:
        return {}
    backward_from(value, trial.case)
    found = {name: tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}
    for tensor in inputs.values():
        tensor.grad = None
    return found


def _random_states(device: str) -> dict[str, bytes]:
    """The states of the random generators: torch's, the device's where it has one, and others'."""
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
    """Move every generator on, so that what sets its state to the same again does change it."""
    torch.rand(1)
    torch.rand(1, device=device)
    np.random.random()
    random.random()


#: For a script: whether torch's generator is after a call as it was before.
_UNDRAWN = (
    "torch.equal(*[(torch.rand(1), torch.get_rng_state())[1], call(), torch.get_rng_state()][::2])"
)


@clause(stateless, enough=40)  # a class that owns parameters draws their first values
def random_state(trial: Trial) -> Judgement:
    """A call leaves random generators (torch's, numpy's, Python's) and torch's switches (grad mode,
    default dtype, threads, determinism, autocast) as they were."""
    for found in trial.outcome.changed:
        check = f"{found.switch.code} == {found.before!r}"
        raise Deviation(f"{found.switch.name} was changed", found.after, found.before, check=check)
    if not trial.worked:
        raise NotJudged(Excuse.CALL_FAILS)
    with other_settings():  # to set them back to what they usually are is no better
        again = perform(trial.under_test, trial.case, trial.device, backward=False)
    for found in again.changed:
        what = f"{found.switch.name}, which the user had set otherwise, was changed"
        raise Deviation(what, found.after, found.before, check=None)
    call, _ = ready(trial.under_test, trial.case, trial.device)  # a constructor may well draw some
    _draw(trial.device)
    before = _random_states(trial.device)
    call()
    after = _random_states(trial.device)
    for whose, state in before.items():
        if after[whose] != state:
            raise Deviation(
                f"{whose} random generator was changed",
                "another state",
                "the state before",
                check=_UNDRAWN if whose == "torch's" else None,
            )
    return True


@precondition()
def _has_numbers(trial: Trial) -> bool:
    """The result has at least one number."""
    return bool(trial.outcome.value.numel())


@clause(enough=40, requires=[works, _has_numbers])
def own_memory(trial: Trial) -> Judgement:
    """The result shares no memory with an input."""
    elements = trial.case.with_(requires_grad=(), reduction="none")
    outcomes = [trial.outcome]
    if trial.can("none"):  # where nothing needs a gradient, memory is reused most
        outcomes.append(perform(trial.under_test, elements, trial.device))
    for outcome in (each for each in outcomes if isinstance(each.value, torch.Tensor)):
        memory = outcome.value.untyped_storage().data_ptr()
        for name, tensor in outcome.inputs.items():
            if tensor.numel() and tensor.untyped_storage().data_ptr() == memory:
                raise Deviation(
                    f"the result lies in {name}'s memory",
                    "shared",
                    "its own",
                    check=f"value.data_ptr() != inputs[{name!r}].data_ptr()",
                    case=None if outcome is trial.outcome else elements,
                )
    return True


@clause(enough=3, requires=[wants_gradients, raises_nothing])
def graph_freed(trial: Trial) -> Judgement:
    """After backward, nothing keeps the inputs alive: no reference cycle, no kept graph."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        outcome: Outcome | None = trial.attempt()
        assert outcome is not None
        refs = {name: weakref.ref(tensor) for name, tensor in outcome.inputs.items()}
        outcome = None
        kept = [name for name, ref in refs.items() if ref() is not None]
    finally:
        if collecting:
            gc.enable()
    if kept:
        raise Deviation(
            f"{kept[0]} is still alive after its last use", "alive", "freed", check=None
        )
    return True


@clause(enough=3, requires=[works])
def threads(trial: Trial) -> Judgement:
    """Called from several threads at once, each call gives what it gives alone."""
    alone = trial.outcome.value.detach()
    results: list[Outcome] = []

    def work() -> None:
        for _ in range(4):
            results.append(trial.attempt())

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    want = first_numbers(alone, 4)
    for outcome in results:
        if outcome.error is not None and not outcome.returned:
            raise failed("a call beside others", outcome.error, str(want))
        if not isinstance(outcome.value, torch.Tensor) or not same_bits(
            outcome.value.detach(), alone
        ):
            raise Deviation("a call beside others", outcome.value, want, check=None)
    return True


@clause(enough=40, requires=[wants_gradients, differentiable_twice, works, raises_nothing])
def second_backward(trial: Trial) -> Judgement:
    """With retain_graph a second backward adds the same gradients once more."""
    case = trial.case
    call, inputs = ready(trial.under_test, case, trial.device)
    value = call()
    if not value.requires_grad:
        raise NotJudged(Excuse.NOT_DIFFERENTIABLE)
    try:
        backward_from(value, case, retain_graph=True)
    except Exception:  # a graph that cannot be kept, as some compiled ones
        raise NotJudged(Excuse.NOT_SUPPORTED, "the graph cannot be kept") from None
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
        if second is None or not same_bits(second + 0, first + 0):  # -0 is 0
            got = None if second is None else first_numbers(second, 4)
            raise Deviation(
                f"the gradient of {name} in a second backward",
                got,
                first_numbers(first, 4),
                check=None,
            )
    return True
