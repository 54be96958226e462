"""Clauses on calls that overlap: live results of several calls, changed tensors, and threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

import lossspec
from lossspec.cases.axes import part_along
from lossspec.cases.case import Case
from lossspec.cases.workloads import Size, axes, workload
from lossspec.clauses import Judgement, clause
from lossspec.clauses.precondition import (
    can_be_cut,
    conforms,
    first_axis,
    has_graph,
    precondition,
    raises_nothing,
    wants_gradients,
    works,
)
from lossspec.clauses.trial import (
    Deviation,
    NotJudged,
    Trial,
    any_judged,
    failed,
    repeated_result,
    returned,
    tensor_of,
)
from lossspec.excuse import Excuse
from lossspec.execution.call import Call, arguments, ready, unsupported_argument
from lossspec.execution.global_state import preserved
from lossspec.execution.outcome import (
    Outcome,
    before_backward,
    legible,
    perform,
)
from lossspec.execution.tensors import first_numbers, same_bits, to_extended, to_torch
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex, Role

#: The seconds between two switches of Python threads in clause `threads`. The default of 0.005
#: seconds is longer than most calls, which then never overlap.
SWITCH_INTERVAL = 1e-5
#: The number of later calls whose results are kept before the first goes backward in the clauses
#: on live results. A loss may take its memory from a ring of several buffers.
LATER_CALLS = 4
#: The number of calls without backward that each thread makes in a row in clause `threads`.
CALLS_IN_A_ROW = 3
#: The number of lines of a call after which another thread makes a different call.
INTERRUPTED_LINES = 24
#: The seconds to wait for that call. It may wait for a lock that the interrupted call holds.
INTERRUPTION = 0.5


@precondition()
def _has_other_numbers(trial: Trial) -> bool:
    """Equal rows in place of the rows of the batch give other numbers of the same shape."""
    return can_be_cut.holds(trial) and other_numbers(trial) is not None


def other_numbers(trial: Trial) -> Case | None:
    """Return a valid case of the same shape with other numbers in the tensors that a call passes.

    Each row is replaced by the first one, and a number that is passed by position by another one.
    Tensors that the constructor of a class takes stay.

    Returns:
        The case, or None if no number changes or the spec does not allow the case.
    """
    case, axis = trial.case, first_axis(trial)
    if axis is None and trial.loss.whole_batch(case.shape):
        axis = trial.loss.batch
    if axis is None:
        return None
    size = case.axis_sizes(trial.loss)[axis]
    other = part_along(trial.loss, case, axis, np.zeros(size, int))
    call, roles = Call.of(trial.under_test, case), trial.loss.roles(trial.form)
    passed = {each.name for each in call.positional}
    changed = {
        name: _other_number(roles[name], x) if _is_number(roles[name]) else other.tensors[name]
        for name, x in case.tensors.items()
    }
    if trial.under_test.surface == "function":
        passed |= {name for name in call.tensor_keywords if not roles[name].scalar}
    tensors = {n: changed[n] if n in passed else x for n, x in case.tensors.items()}
    same = all(np.array_equal(tensors[n], x, equal_nan=True) for n, x in case.tensors.items())
    other = case.with_(tensors=tensors, parameters=other.parameters, layouts={})
    return None if same or other.parameters != case.parameters or not trial.allows(other) else other


def _is_number(role: Role) -> bool:
    return role.scalar and not role.integer and not isinstance(role, Constrained)


def _other_number(role: Role, x: np.ndarray) -> np.ndarray:
    """Return x + 1 or x / 2, the first that differs from x and that the role allows; else x."""
    others = (np.asarray(x + 1, x.dtype), np.asarray(x / 2, x.dtype))
    allowed = (y for y in others if role.contains(y.astype(np.float64)).all())
    return next((y for y in allowed if (y != x).any()), x)


class _Live:
    """A result with a live graph: the tensors of the call, the result and its gradients.

    Attributes:
        case: The case that was called.
        inputs: The tensors that require a gradient, by name.
        value: The result.
        kept: A copy of the result, made after the call.
    """

    def __init__(self, case: Case, tensors: Mapping[str, Any], call: Callable[[], Any]) -> None:
        self.case = case
        self.inputs = {n: tensors[n] for n in case.requires_grad}
        self.value = tensor_of(call, "one of two calls with other numbers")
        self.kept = self.value.detach().clone()

    def unharmed(self, what: str) -> None:
        """Raise Deviation if the result has changed since it was returned."""
        _compare(self.value, self.kept, f"the first result after {what}")

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients by name, without those that backward does not reach."""
        if not self.value.requires_grad:
            return {}
        upstream = to_torch(self.case.upstream(self.case.reduction), device=str(self.value.device))
        end = before_backward(self.value, upstream.to(self.value.dtype).expand(self.value.shape))
        inputs = list(self.inputs.values())
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(end, inputs, allow_unused=True)
        return {n: x for n, x in zip(self.inputs, found, strict=True) if x is not None}


def _callers(trial: Trial, *cases: Case) -> Iterator[tuple[dict[str, Any], Callable[[], Any]]]:
    """Yield the tensors and the call of each case; on a class, one module makes all calls."""
    module: Callable[[Mapping[str, Any]], Any] | None = None
    own: dict[str, Any] = {}
    for case in cases:
        tensors, call = (
            arguments(trial.under_test, case, trial.device),
            Call.of(trial.under_test, case),
        )
        if module is None or trial.under_test.surface == "function":
            module = call.constructed(tensors)
            own = {name: tensors[name] for name in (*call.owned, *call.tensor_keywords)}
        else:
            tensors |= own
        yield tensors, _preserving(module, call, tensors)


def _preserving(
    module: Callable[[Mapping[str, Any]], Any], call: Call, tensors: Mapping[str, Any]
) -> Callable[[], Any]:
    """Return a call of a module that leaves the global settings as they are."""

    def again() -> Any:
        with preserved():
            return module(call.handed(tensors))

    return again


@clause(enough=10, requires=[works, raises_nothing, _has_other_numbers, conforms])
def live_results(trial: Trial) -> Judgement:
    """After calls with other numbers of the same shape, the first result and its gradients are
    still right, and each later call gives what it gives on its own."""
    case, other = trial.case.with_(layouts={}), other_numbers(trial)
    assert other is not None
    alone = _performed(trial, other)
    (tensors, call), (others, call_again) = _callers(trial, case, other)
    first = _Live(case, tensors, call)
    later = [_Live(other, others, call_again) for _ in range(LATER_CALLS)]
    first.unharmed("calls with other numbers")
    with torch.no_grad():
        returned(call_again, "a call under no_grad")
    first.unharmed("a call under no_grad")
    mine = returned(first.gradients, "backward after calls with other numbers", "gradients")
    kept = {name: gradient.clone() for name, gradient in mine.items()}
    theirs = returned(later[0].gradients, "the second of two backwards", "gradients")
    for name, gradient in mine.items():
        what = f"the first gradient of {name} after a second backward"
        _compare(gradient, kept[name], what, gradient_of=name)
    informative = _judge_gradients(trial, mine)
    if alone.error is None:
        for live in later:
            _compare(live.value, alone.value, "the value of a later call with other numbers")
        for name, gradient in theirs.items():
            what = f"the second of two live results: the gradient of {name}"
            _compare(gradient, alone.gradients[name], what, gradient_of=name)
        _judge_same_memory(tensors, others, call, alone.value)
    for pair in _without_gradients(trial, other):
        _judge_refilled(trial, *pair)
    return _judge_unreduced(trial, other) or informative


def _compare(
    got: torch.Tensor, want: torch.Tensor | None, what: str, gradient_of: str | None = None
) -> None:
    """Raise Deviation if two tensors differ; adding 0 makes -0 equal to 0."""
    if want is None:
        return  # clause `gradient` reports a missing gradient
    got = got.detach()
    if not same_bits(
        got.reshape(want.shape) + 0 if got.numel() == want.numel() else got, want.detach() + 0
    ):
        pair = first_numbers(got, 4), first_numbers(want, 4)
        raise Deviation(what, *pair, check=None, gradient_of=gradient_of)


def _judge_gradients(trial: Trial, found: Mapping[str, torch.Tensor]) -> bool:
    """Compare the gradients of the first of two live results with the right ones."""
    informative = False
    for name, want in trial.expected.gradients().items():
        if name not in found:
            continue  # clause `gradient` reports a missing gradient
        what = f"the first of two live results: the gradient of {name}"
        got = to_extended(found[name].reshape(trial.case.tensors[name].shape))
        informative |= trial.agree(got, want, what, of=None, gradient_of=name)
    return informative


def _judge_same_memory(
    tensors: dict[str, Any], others: Mapping[str, Any], call: Callable[[], Any], want: Any
) -> None:
    """Write the numbers of the second call into the tensors of the first, and call again."""
    with torch.no_grad():
        for name, given in others.items():
            if not isinstance(given, torch.Tensor):
                tensors[name] = given  # a number that the call passes cannot be changed in place
            elif tensors[name] is not given:
                tensors[name].copy_(given)
    value = tensor_of(call, "a call with other numbers in the same tensors")
    _compare(value, want, "the value of a call with other numbers in the same tensors")


def _without_gradients(trial: Trial, other: Case) -> Iterator[tuple[Case, Case]]:
    """Yield two calls without gradients, as they are and with each switch turned on."""
    known = trial.loss.parameters_of(trial.form)
    off = [n for n, given in trial.case.parameters.items() if given is False and n in known]
    for turned in ((), *((name,) for name in off if name not in trial.form.fixed)):
        parameters = {**trial.case.parameters, **dict.fromkeys(turned, True)}
        omitted = trial.case.omitted - {*turned}
        pair = [
            case.with_(parameters=parameters, omitted=omitted, requires_grad=(), layouts={})
            for case in (trial.case, other)
        ]
        if all(_callable(trial, case) for case in pair):
            yield pair[0], pair[1]


def _judge_refilled(trial: Trial, case: Case, other: Case) -> None:
    """Call a case, write the numbers of another one into its tensors, and call at once again."""
    alone = _performed(trial, other)
    if alone.error is not None or _performed(trial, case).error is not None:
        return  # clause `accepts` reports it
    (tensors, call), (others, _) = _callers(trial, case, other)
    returned(call, "a call without gradients")
    _judge_same_memory(tensors, others, call, alone.value)


def _judge_unreduced(trial: Trial, other: Case) -> bool:
    """Judge the unreduced results of two calls without gradients, which may share memory."""
    changes = {"requires_grad": (), "reduction": "none"}
    if not trial.can("none") or not _performed(trial, trial.case.with_(**changes)).returned:
        return False
    calls = _callers(trial, trial.case.with_(**changes), other.with_(**changes))
    (tensors, call), (_, call_again) = calls
    first = _Live(trial.case.with_(**changes), tensors, call)
    returned(call_again, "the second of two calls without gradients")
    first.unharmed("a call with other numbers, without gradients")
    return True


@lru_cache(maxsize=4)
def _plain_cases(loss: Loss) -> tuple[Case, list[Case]]:
    """Return a default call, and other default calls with tensors of the same shapes."""
    dtype = loss.default_dtype
    sizes = axes(loss, Size("", 24, 3, None, ""))
    first, *others = (workload(loss, sizes, dtype, seed) for seed in range(LATER_CALLS + 1))
    shapes = {name: array.shape for name, array in first.tensors.items()}
    alike = [one for one in others if {n: x.shape for n, x in one.tensors.items()} == shapes]
    return first, alike


@clause(enough=1, once=True, requires=[works])
def plain_live_results(trial: Trial) -> Judgement:
    """After four more default calls with other numbers, the first keeps its result and gets the
    right gradients, under any reduction, with and without gradients and under `torch.no_grad`."""
    plain, others = _plain_cases(trial.loss)
    if not others:
        raise NotJudged(Excuse.NOT_ABOUT)

    def judged(reduction: str) -> bool:
        wanted = plain.requires_grad
        for names, recorded in dict.fromkeys([(wanted, True), ((), True), ((), False)]):
            changes = {"reduction": reduction, "requires_grad": names}
            same = SolvedCase(trial.loss, plain.with_(**changes))
            first = Trial(trial.under_test, same, trial.device, bar=trial.bar)
            try:
                with torch.set_grad_enabled(recorded):
                    _judge_first(first, [one.with_(**changes) for one in others])
            except Deviation as deviation:
                deviation.case = deviation.case or same.case
                raise
        return True

    return any_judged(trial, judged, trial.loss.reductions)


def _judge_first(trial: Trial, others: Sequence[Case]) -> None:
    """Make the call of a trial and others, and judge the first result and its gradients."""
    if not trial.can(trial.case.reduction):
        raise NotJudged(Excuse.NOT_SUPPORTED)
    alone = trial.outcome
    if alone.error is not None or not trial.worked:
        raise NotJudged(Excuse.CALL_FAILS)  # clause `accepts` reports it
    cases = [trial.case, *others]
    calls = zip(cases, _callers(trial, *cases), strict=True)
    first, *later = (_Live(case, tensors, call) for case, (tensors, call) in calls)
    first.unharmed(f"{len(later)} calls with other numbers")
    found = returned(first.gradients, "the first backward of several", "gradients")
    for name, gradient in found.items():
        want = alone.gradients.get(name)
        if want is None or same_bits(gradient.reshape(want.shape) + 0, want + 0):
            continue  # adding 0 makes -0 equal to 0
        right = trial.expected.gradients().get(name)
        if right is not None:
            what = f"the gradient of {name} after {len(later)} calls with other numbers"
            got = to_extended(gradient.reshape(right.exact.shape))
            trial.agree(got, right, what, of=None, case=trial.case, gradient_of=name)


@clause(
    enough=10,
    requires=[
        wants_gradients,
        works,
        raises_nothing,
        has_graph,
        _has_other_numbers,
        conforms,
    ],
)
def changed_in_place(trial: Trial) -> Judgement:
    """If a tensor is changed in place after the call, backward raises an error or gives the
    gradients of the call."""
    case, other = trial.case.with_(layouts={}), other_numbers(trial)
    assert other is not None
    _, want = _backward_after(trial, case, None, None)
    changed = [
        name
        for name, numbers in other.tensors.items()
        if not trial.loss.roles(trial.form)[name].scalar
        and not np.array_equal(numbers, case.tensors[name], equal_nan=True)
    ]
    for name in changed:
        raised, got = _backward_after(trial, case, name, other.tensors[name])
        # An error is as good as the right gradients.
        for of, gradient in () if raised else got.items():
            if _differs(trial, of, gradient, want.get(of)):
                raise Deviation(
                    f"the gradient of {of} after {name} was changed in place",
                    first_numbers(gradient, 4),
                    first_numbers(want[of], 4),
                    check=None,
                    gradient_of=of,
                )
    return bool(changed)


def _differs(trial: Trial, name: str, got: torch.Tensor, want: torch.Tensor | None) -> bool:
    """Return whether a gradient is neither that of an undisturbed call nor within the budget."""
    if want is None or same_bits(got + 0, want + 0):  # adding 0 makes -0 equal to 0
        return False
    right = trial.expected.gradients().get(name)
    return right is None or bool((right.error(to_extended(got)) > 1).any())


def _backward_after(
    trial: Trial, case: Case, name: str | None, numbers: np.ndarray | None
) -> tuple[bool, dict[str, torch.Tensor]]:
    """Call a case, write numbers into one of its tensors, and go backward.

    A tensor that the call gets through a function such as `log_softmax` is a leaf of its own here.
    Otherwise the backward of that function would raise instead of that of the loss.

    Returns:
        Whether backward raised an error, and the gradients by name.
    """
    call = Call.of(trial.under_test, case)
    tensors = arguments(trial.under_test, case, trial.device)
    made = call.constructed(tensors)
    given = call.handed(tensors)
    for each in call.positional:
        if each.through is not None and isinstance(given[each.name], torch.Tensor):
            wants = given[each.name].requires_grad
            given[each.name] = given[each.name].detach().clone().requires_grad_(wants)
    with preserved():
        live = _Live(case, given, lambda: made(given))
    if name is not None and numbers is not None:
        with torch.no_grad():
            target = given[name]
            target.copy_(to_torch(numbers, device=trial.device).reshape(target.shape))
    try:
        return False, live.gradients()
    except Exception:
        return True, {}


def _with_other_parameters(trial: Trial) -> Iterator[Case]:
    """Yield valid calls with another value of one parameter each, on the same tensors."""
    case = trial.case
    for name, parameter in trial.loss.parameters_of(trial.form).items():
        if name in trial.form.fixed or parameter.along:
            continue
        for value in parameter.values:
            other = case.with_(
                parameters={**case.parameters, name: value}, omitted=case.omitted - {name}
            )
            if value != case.parameters[name] and _callable(trial, other):
                yield other
                break


def _callable(trial: Trial, case: Case) -> bool:
    """Return whether the implementation takes a call and every class index in it is allowed."""
    sizes = case.axis_sizes(trial.loss)
    return (
        trial.allows(case)
        and unsupported_argument(trial.under_test, case) is None
        and all(
            role.allows(case.tensors[name], sizes[role.classes], case.parameters).all()
            for name, role in trial.form.tensors.items()
            if isinstance(role, ClassIndex)
        )
    )


def _companions(trial: Trial) -> list[Case]:
    """Return calls to make beside that of the trial: other parameters, another shape, numbers."""
    case, axis, found = trial.case, first_axis(trial), list(_with_other_parameters(trial))
    if axis is not None and trial.separable:
        size = case.axis_sizes(trial.loss)[axis]
        if size > 1:
            found.append(part_along(trial.loss, case, axis, np.arange(size // 2)))
        other = other_numbers(trial)
        found += [] if other is None else [other]
    return [each for each in found if trial.allows(each)]


@contextmanager
def _switching_often() -> Iterator[None]:
    """Let Python switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@clause(enough=4, requires=[works])
def threads(trial: Trial) -> Judgement:
    """Calls from several threads at once, with the same or with other parameters, shapes and
    numbers, give the same bits as each call on its own. Threads may share a module."""
    companions = _companions(trial)
    pairs = [(trial.case, trial.outcome)] * 2
    pairs += [(case, _performed(trial, case)) for case in companions[:1]]
    pairs = [(case, one) for case, one in pairs if one.returned]
    results: list[tuple[Case, Outcome, Outcome]] = []
    start = threading.Barrier(len(pairs))

    def work(case: Case, one: Outcome) -> None:
        start.wait()
        results.append((case, _performed(trial, case), one))
        try:
            call, _ = ready(trial.under_test, case, trial.device)
        except Exception as error:
            results.append((case, Outcome(phase="construct", error=legible(error)), one))
        else:
            results.extend((case, _valued(call), one) for _ in range(CALLS_IN_A_ROW))

    # Threads that do not return must not keep the process from ending.
    workers = [threading.Thread(target=work, args=pair, daemon=True) for pair in pairs]
    with _switching_often():
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    interrupted = [_interrupted(trial, case) for case in companions]
    if trial.under_test.surface == "class":
        same = [each for each in companions if each.parameters == trial.case.parameters]
        interrupted += [_interrupted(trial, case, shared=True) for case in same]
    results += [(trial.case, each, trial.outcome) for each in interrupted if each is not None]
    for case, outcome, one in results:
        _judge_thread(trial, case, outcome, one)
    return True


@cache
def _packages() -> tuple[str, ...]:
    """Return the folders of torch and of this package, whose lines are not interrupted."""
    return tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, lossspec.__file__))


def _interrupted(trial: Trial, other: Case, *, shared: bool = False) -> Outcome | None:
    """Call the case of a trial, and make another call in a thread after each line of its code.

    Args:
        trial: The trial.
        other: The case of the other call.
        shared: Whether the other call is one of the same module, with the inputs of `other`.

    Returns:
        The outcome. None if a module cannot be constructed for the other call.
    """
    call = Call.of(trial.under_test, trial.case)
    tensors = arguments(trial.under_test, trial.case, trial.device)
    made, given = call.constructed(tensors), call.handed(tensors)
    try:
        again, others = ready(trial.under_test, other, trial.device)
        if shared:
            again = partial(made, call.handed({**tensors, **others}))
    except Exception:
        return None
    left = INTERRUPTED_LINES

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename.startswith(_packages()):
            return None  # not the code of the implementation
        if left and event == "line":
            left -= 1
            worker = threading.Thread(target=_valued, args=(again,), daemon=True)
            worker.start()
            worker.join(INTERRUPTION)
            left = 0 if worker.is_alive() else left
        return line

    def interrupted() -> Any:
        before = sys.gettrace()
        sys.settrace(line)
        try:
            return made(given)
        finally:
            sys.settrace(before)

    with preserved():
        return _valued(interrupted)


def _valued(call: Callable[[], Any]) -> Outcome:
    """Return the outcome of a call without its backward."""
    outcome = Outcome(phase="call")
    try:
        outcome.value = call()
    except Exception as error:
        outcome.error = legible(error)
    return outcome


def _performed(trial: Trial, case: Case) -> Outcome:
    """Run a case, forward and backward."""
    return perform(trial.under_test, case, trial.device)


def _judge_thread(trial: Trial, case: Case, outcome: Outcome, alone: Outcome) -> None:
    """Raise Deviation if a call from one of several threads differs from the call on its own."""
    what = "a call from one of several threads"
    value = alone.value.detach()
    want = first_numbers(value, 4)
    if outcome.error is not None and (not outcome.returned or alone.error is None):
        raise failed(what, outcome.error, str(want), case=case)
    got = outcome.value
    if not isinstance(got, torch.Tensor):
        raise Deviation(what, got, want, check=None, case=case)
    if not same_bits(got.detach(), value):
        bounded = None if outcome.oversized else _expected(trial, case).value(case.reduction)
        repeated = repeated_result(got.detach(), value, bounded)
        raise Deviation(what, got, want, check=None, case=case, repeated=repeated)
    for name, right in alone.gradients.items():
        if right is None or alone.error is not None or name not in outcome.gradients:
            continue
        gradient = outcome.gradients[name]
        what_of_it = f"the gradient of {name} in {what}"
        if gradient is None:
            raise Deviation(what_of_it, None, first_numbers(right, 4), check=None, case=case)
        if not same_bits(gradient + 0, right + 0):  # makes -0 equal to 0
            pair = first_numbers(gradient, 4), first_numbers(right, 4)
            bounded = _expected(trial, case).gradients().get(name)
            repeated = repeated_result(gradient, right, bounded)
            raise Deviation(what_of_it, *pair, check=None, case=case, repeated=repeated)


def _expected(trial: Trial, case: Case) -> Expected:
    return (trial.solved if case is trial.case else trial.solved.changed(case)).expected
