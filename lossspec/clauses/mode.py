"""Clauses on other ways to run the same call: without gradients, transformed, traced, compiled.

A wrong number is a deviation. An error is a deviation if the implementation declares the ability;
otherwise the clause is unsupported.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch

from lossspec.cases.axes import part_along
from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause, stateless
from lossspec.clauses.ability import raised
from lossspec.clauses.precondition import (
    conforms,
    differentiable_twice,
    documented_dtypes,
    first_axis,
    has_elements,
    precondition,
    small,
    uses_options,
    wants_gradients,
    works,
)
from lossspec.clauses.refusal import misshapen, out_of_range, ruled_out
from lossspec.clauses.trial import (
    Deviation,
    NotJudged,
    Trial,
    Unsupported,
    as_tensor,
    failed,
    returned,
    tensor_of,
)
from lossspec.excuse import Excuse
from lossspec.execution.call import (
    Call,
    arguments,
    constructed,
    handed,
    invoke,
    ready,
    taken_from,
)
from lossspec.execution.checkpoint import under_way
from lossspec.execution.declaration import Ability
from lossspec.execution.global_state import preserved
from lossspec.execution.outcome import backward_from, differentiable
from lossspec.execution.tensors import to_extended, to_torch
from lossspec.execution.torch_private import fake_tensor_mode, mixes_devices, without_subclasses
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Length, Surface


@precondition(Excuse.NOT_SUPPORTED)
def _has_a_graph(trial: Trial) -> bool:
    """Backward can start from the result."""
    return differentiable(trial.outcome.value)


@precondition(Excuse.TOO_EXPENSIVE)
def _small(trial: Trial) -> bool:
    """The call has fewer than 500 numbers: compiling takes a part of a second."""
    return sum(array.size for array in trial.case.tensors.values()) < 500


@precondition(Excuse.TOO_UNCERTAIN)
def _tells(trial: Trial) -> bool:
    """The budget is less than a tenth of the value, or of some element of it."""
    return trial.expected.value(trial.case.reduction).informative


@precondition(Excuse.TOO_EXPENSIVE)
def _of_a_mean(trial: Trial) -> bool:
    """The reduction is `mean`, if the loss has it, since exporting is slow."""
    return "mean" not in trial.loss.reductions or trial.case.reduction == "mean"


#: The preconditions of a clause that runs a right call in another way.
PLAIN = (works, differentiable_twice, documented_dtypes, conforms)
#: The preconditions of a clause that compiles a call.
COMPILED = (_small, works, differentiable_twice, documented_dtypes, _tells, conforms)


@clause(enough=40, requires=(works, conforms))
def grad_mode(trial: Trial) -> Judgement:
    """The value is the same under `torch.no_grad`, under `torch.inference_mode`, and if no input
    requires a gradient; under both it has no graph. After a call under `torch.inference_mode`, also
    if it is the first of its kind, a call works with its backward."""
    want = trial.expected.value(trial.case.reduction)
    informative = _judged_after_inference(trial)
    unseen = _unseen(trial)
    if unseen is not None:
        solved = SolvedCase(trial.loss, unseen)
        beside = Trial(trial.under_test, solved, trial.device, bar=trial.bar)
        try:
            informative |= _judged_after_inference(beside)
        except Deviation as deviation:
            if deviation.raised is not None or beside.conforms:
                raise  # otherwise clause `value` reports it
    for name, mode in (("no_grad", torch.no_grad), ("inference_mode", torch.inference_mode)):
        with mode():
            result = tensor_of(lambda: _called(trial, trial.case), f"the call under {name}")
            value = to_extended(result)
        if result.requires_grad:
            what = f"the result under {name} has a graph"
            raise Deviation(what, "requires_grad=True", "requires_grad=False", check=None)
        informative |= trial.agree(value, want, f"the value under {name}", of=None)
    plain = trial.case.with_(requires_grad=())
    result = tensor_of(lambda: _called(trial, plain), "the call with no gradient required")
    value = to_extended(result)
    return trial.agree(value, want, "the value with no gradient required", of=None) or informative


def _judged_after_inference(trial: Trial) -> bool:
    """Judge a call, with its backward, whose module was called under inference mode before."""
    call, _ = ready(trial.under_test, trial.case, trial.device)
    with torch.inference_mode():
        returned(call, "the call under inference_mode")
    when = "after a call under inference_mode"
    result = tensor_of(call, f"the call {when}")
    if trial.case.requires_grad and differentiable(result):
        returned(lambda: backward_from(result, trial.case), f"backward {when}", "gradients")
    want = trial.expected.value(trial.case.reduction)
    return trial.agree(to_extended(result), want, f"the value {when}", of=None)


#: A number of rows that few calls have, and a factor that makes a parameter one that none has.
_UNSEEN_ROWS = 29
_UNSEEN_FACTOR = 1 - 2.0**-9


def _unseen(trial: Trial) -> Case | None:
    """Return a call whose shape and parameters no earlier call had; None if there is none."""
    case, loss = trial.case, trial.loss
    parameters = {
        name: value * _UNSEEN_FACTOR
        for name, parameter in loss.parameters_of(trial.form).items()
        if name not in {*trial.form.fixed, *case.omitted}
        and isinstance(value := case.parameters[name], float)
        and any(isinstance(each, float) and each % 1 for each in parameter.values)
    }
    case = case.with_(parameters={**case.parameters, **parameters})
    axis = first_axis(trial)
    if axis is not None and trial.separable and (size := case.axis_sizes(loss)[axis]):
        case = part_along(loss, case, axis, np.arange(_UNSEEN_ROWS) % size)
    elif not parameters:
        return None
    return case if trial.allows(case) else None


def _called(trial: Trial, case: Case) -> Any:
    """Return the result of a case, constructed and called."""
    call, _ = ready(trial.under_test, case, trial.device)
    return call()


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress logs, warnings and output, which torch writes when tracing fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# Slow because torch.func and fake tensors import the compiler, which takes seconds.
@clause(stateless, enough=20, slow=True, requires=(wants_gradients, _has_a_graph, *PLAIN))
def functional_gradient(trial: Trial) -> Judgement:
    """`torch.func.vjp` gives the gradients of the definition, within the error budget."""
    case = trial.case
    inputs = arguments(trial.under_test, case.with_(requires_grad=()), trial.device)
    names = list(case.requires_grad)

    def loss(*given: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = invoke(
            trial.under_test, case, {**inputs, **dict(zip(names, given, strict=True))}
        )
        return value

    try:
        value, back, *_ = torch.func.vjp(loss, *(inputs[name] for name in names))
        upstream = to_torch(case.upstream(case.reduction), device=trial.device).to(value.dtype)
        gradients = back(upstream.expand(value.shape))
    except Exception as error:
        raise raised(trial, Ability.FUNCTIONAL_GRADIENT, error, "torch.func.vjp") from None
    found = dict(zip(names, gradients, strict=True))
    informative = False
    for name, want in trial.expected.gradients().items():
        what = f"torch.func.vjp's gradient of {name}"
        informative |= trial.agree(to_extended(found[name]), want, what, of=None, gradient_of=name)
    return informative


@clause(stateless, enough=20, requires=PLAIN)
def vmap(trial: Trial) -> Judgement:
    """Under `torch.vmap` over several calls, along any axis and with tensors that all calls share,
    each call has the right value and gradients."""
    names = [name for name, role in trial.loss.roles(trial.form).items() if not role.scalar]
    names = [name for name in names if name in trial.case.tensors]
    mirrored = _mirrored(trial)
    other = trial.solved if mirrored is trial.case else SolvedCase(trial.loss, mirrored)
    judged = [_Batch(trial, _batch_axes(trial, names), [trial.solved, other]).judge()]
    # The right answer to a call that shares a tensor with a mirrored call is not known.
    same = [trial.solved] * 2
    for axes in _shared_axes(names):
        try:
            judged.append(_Batch(trial, axes, same).judge())
        except Unsupported as lack:
            trial.skipped[lack.excuse] += 1
        except Deviation as deviation:
            # torch documents that in-place operations which would widen a shared tensor raise.
            if deviation.raised is None:
                raise
            trial.skipped[Excuse.NOT_SUPPORTED] += 1
    return any(judged) and uses_options(trial)


def _batch_axes(trial: Trial, names: Sequence[str]) -> dict[str, int | None]:
    """Return the axis along which each tensor is batched, a different one for each.

    Args:
        trial: The trial of the case.
        names: The names of the tensors.
    """
    axes = [(-1, 0, 1)[i % 3] for i in range(len(names))]
    return {
        name: min(axis, trial.case.tensors[name].ndim)
        for name, axis in zip(names, axes, strict=True)
    }


def _shared_axes(names: Sequence[str]) -> Iterator[dict[str, int | None]]:
    """Yield the axis along which each tensor is batched; None for one that all calls share."""
    if len(names) > 1:
        yield {name: None if i == 0 else -1 for i, name in enumerate(names)}
        yield {name: 0 if i == 0 else None for i, name in enumerate(names)}


def _mirrored(trial: Trial) -> Case:
    """Return the case with its batch and its optional tensors reversed, if the call is valid."""
    loss, case = trial.loss, trial.case
    if not small.holds(trial):  # a second right answer would take too long
        return case
    known, roles = loss.parameters_of(trial.form).values(), loss.roles(trial.form)
    if loss.batched(case.shape) and not any(parameter.along for parameter in known):
        size = case.axis_sizes(loss)[loss.batch]
        turned = part_along(loss, case, loss.batch, np.arange(size)[::-1])
        # All calls of a batch get the same numbers, such as lengths in tuples.
        same = all(
            np.array_equal(array, case.tensors[name])
            for name, array in turned.tensors.items()
            if roles[name].scalar
        )
        case = turned if same and trial.allows(turned) else case
    optional = {
        name: array[::-1].copy()
        for name, array in case.tensors.items()
        if name in loss.options and array.ndim == 1 and not roles[name].scalar
    }
    turned = case.with_(tensors={**case.tensors, **optional}) if optional else case
    return turned if trial.allows(turned) else case


@dataclass
class _Batch:
    """Several calls that `torch.vmap` makes as one.

    Attributes:
        trial: The trial of the case.
        axes: The axis along which each tensor is batched; None for a shared one.
        calls: The calls, which differ in the numbers only.
    """

    trial: Trial
    axes: Mapping[str, int | None]
    calls: Sequence[SolvedCase]

    def judge(self) -> bool:
        """Judge the values and the gradients; return whether a wrong one would have shown."""
        trial, case = self.trial, self.trial.case
        inputs = arguments(trial.under_test, case.with_(requires_grad=()), trial.device)
        given = {
            name: inputs[name] if axis is None else self._stacked(name, axis)
            for name, axis in self.axes.items()
        }

        def loss(batched: dict[str, Any]) -> Any:
            return invoke(trial.under_test, case, {**inputs, **batched})

        try:
            with _silent(), preserved():
                values = torch.vmap(loss, in_dims=(dict(self.axes),))(given)
        except Exception as error:
            raise raised(trial, Ability.VMAP, error, "torch.vmap") from None
        shape = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        wanted = [len(self.calls), *trial.outcome.value.shape]
        if shape != wanted:
            what = f"the shape of the value under torch.vmap{self._way}"
            raise Deviation(what, shape, wanted, check=None)
        what = f"the value under torch.vmap{self._way}"
        judged = [
            trial.agree(to_extended(value), call.expected.value(case.reduction), what, of=None)
            for value, call in zip(values, self.calls, strict=True)
        ]
        if differentiable(values):
            self._judge_gradients(given, values)
        return all(judged)

    def _stacked(self, name: str, axis: int) -> torch.Tensor:
        """Return the tensors of all calls along one axis."""
        arrays = [
            to_torch(call.case.tensors[name], device=self.trial.device) for call in self.calls
        ]
        stacked = torch.stack(arrays, axis).detach()
        return stacked.requires_grad_(name in self.trial.case.requires_grad)

    def _judge_gradients(self, given: Mapping[str, torch.Tensor], values: torch.Tensor) -> None:
        """Judge the gradients of the batched tensors, each in its own call."""
        trial, case = self.trial, self.trial.case
        names = [name for name, tensor in given.items() if tensor.requires_grad]
        upstream = torch.stack(
            [
                to_torch(call.case.upstream(case.reduction), device=trial.device)
                for call in self.calls
            ]
        )
        try:
            with _silent():
                # torch imports its symbolic shapes if it gets a cotangent, which takes a second.
                total = (values * upstream.to(values.dtype)).sum()
                gradients = torch.autograd.grad(
                    total, [given[name] for name in names], allow_unused=True
                )
        except Exception as error:
            raise raised(trial, Ability.VMAP, error, "backward of torch.vmap") from None
        for name, gradient in zip(names, gradients, strict=True):
            what = f"the gradient of {name} under torch.vmap{self._way}"
            if gradient is None:
                if trial.outcome.gradients.get(name) is not None:
                    raise Deviation(f"no {what[4:]}", None, "a gradient, as without it", check=None)
                continue
            axis = self.axes[name]
            assert axis is not None, "a shared tensor requires no gradient"
            for call, own in zip(self.calls, gradient.unbind(axis), strict=True):
                want = call.expected.gradients().get(name)
                if want is not None:
                    trial.agree(to_extended(own), want, what, of=None, gradient_of=name)

    @property
    def _way(self) -> str:
        """The axes, for the report."""
        return " along axes " + ", ".join(f"{axis} of {name}" for name, axis in self.axes.items())


@clause(stateless, enough=4, slow=True, requires=PLAIN)
def fake_tensors(trial: Trial) -> Judgement:
    """On fake tensors the result has the same shape and dtype as on real tensors. On fake tensors
    of an accelerator, the call makes no tensor on the host that it then combines with them."""
    case = trial.case.with_(requires_grad=())
    # Made before the mode is on: torch keeps the number of a one-element tensor that is made under
    # it, and then computes with the number instead of with the shape.
    inputs = arguments(trial.under_test, case, trial.device)
    with _silent(), fake_tensor_mode() as fake:
        faked = {
            name: fake.from_tensor(x) if isinstance(x, torch.Tensor) else x
            for name, x in inputs.items()
        }
        try:
            got = invoke(trial.under_test, case, faked)
        except Exception as error:
            raise raised(trial, Ability.FAKE_TENSORS, error, "fake tensors") from None
    got, want = as_tensor(got, "the call on fake tensors"), trial.outcome.value
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        raise Deviation(
            "the result on fake tensors",
            f"{got.dtype} {list(got.shape)}",
            f"{want.dtype} {list(want.shape)}",
            check=None,
            shapes=(got.shape, want.shape),
        )
    _judge_fake_accelerator(trial, inputs)
    return True


#: The device of fake tensors, which torch needs no such device for.
ACCELERATOR = "cuda"


def _judge_fake_accelerator(trial: Trial, inputs: Mapping[str, Any]) -> None:
    """Raise Deviation if a call on fake tensors of an accelerator mixes devices."""
    if any(isinstance(role, Length) for role in trial.form.tensors.values()):
        return  # lengths may be on the host
    case = trial.case.with_(requires_grad=())
    with _silent(), fake_tensor_mode():
        faked = {
            name: torch.empty(x.shape, dtype=x.dtype, device=ACCELERATOR)
            if isinstance(x, torch.Tensor)
            else x
            for name, x in inputs.items()
        }
        try:
            got = invoke(trial.under_test, case, faked)
        except Exception as error:
            if not mixes_devices(error):
                return  # such as a number that fake tensors do not have
            raise failed("the call on fake tensors of an accelerator", error, "a tensor") from None
    if isinstance(got, torch.Tensor) and got.device.type != ACCELERATOR:
        what = "the device of the result on fake tensors of an accelerator"
        raise Deviation(what, got.device.type, ACCELERATOR, check=None)


@cache
def _passing() -> type[torch.Tensor]:
    """Return a tensor subclass that passes every call on, as wrappers of other libraries do."""

    class Passing(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            with without_subclasses():
                return func(*args, **(kwargs or {}))

    return Passing


@clause(stateless, enough=60, requires=PLAIN)
def tensor_subclass(trial: Trial) -> Judgement:
    """Tensors of a subclass with `__torch_function__` give the same value as plain tensors."""
    case = trial.case
    inputs = arguments(trial.under_test, case.with_(requires_grad=()), trial.device)
    wrapped = {
        name: x.as_subclass(_passing()) if isinstance(x, torch.Tensor) else x
        for name, x in inputs.items()
    }
    try:
        got = invoke(trial.under_test, case, wrapped)
    except Exception as error:
        way = "tensors of a subclass"
        raise raised(trial, Ability.TENSOR_SUBCLASSES, error, way) from None
    want = trial.expected.value(case.reduction)
    plain = as_tensor(got, "the call with tensors of a subclass").as_subclass(torch.Tensor)
    value = to_extended(plain)
    return trial.agree(value, want, "the value of tensors of a subclass", of=None)


def _compiled(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    torch.compiler.reset()
    whole: Callable[[Any], Any] = torch.compile(call, backend="aot_eager", dynamic=False)
    return whole


@clause(stateless, chosen=2, slow=True, requires=COMPILED)
def compiled(trial: Trial) -> Judgement:
    """Under `torch.compile` the value and the gradients are right."""
    case = trial.case
    inputs = arguments(trial.under_test, case, trial.device)
    call = constructed(trial.under_test, case, inputs, {})
    try:
        with _silent():
            got = _compiled(call)(handed(trial.under_test, case, inputs))
            if differentiable(got):
                backward_from(got, case)
    except Exception as error:
        raise raised(trial, Ability.COMPILE, error, "torch.compile") from None
    trial.under_test.shown.add(Ability.COMPILE)
    got = as_tensor(got, "the compiled call")
    want = trial.expected.value(case.reduction)
    informative = trial.agree(to_extended(got), want, "the value under torch.compile", of=None)
    for name, bounded in trial.expected.gradients().items():
        gradient, what = inputs[name].grad, f"the gradient of {name} under torch.compile"
        if gradient is not None:
            trial.agree(to_extended(gradient), bounded, what, of=None, gradient_of=name)
        elif trial.outcome.gradients.get(name) is not None:
            what = f"no gradient of {name} under torch.compile"
            raise Deviation(what, None, "a gradient, as without it", check=None)
    return informative


def _invalid(trial: Trial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one call of each kind that is invalid: by shape, by parameter, and by the spec."""
    shapes = (
        (breach, {name: to_torch(array, device=trial.device) for name, array in replaced.items()})
        for breach, replaced, broadcasts in misshapen(trial)
        if not broadcasts
    )
    for kind in (shapes, out_of_range(trial), ruled_out(trial)):
        yield from islice(kind, 1)


def _check_compiles(trial: Trial) -> None:
    """Raise if the valid call raises under torch.compile, since invalid calls then show nothing."""
    if Ability.COMPILE in trial.under_test.shown:
        return
    case = trial.case.with_(requires_grad=())
    inputs = arguments(trial.under_test, case, trial.device)
    try:
        with _silent():
            call = constructed(trial.under_test, case, inputs, {})
            _compiled(call)(handed(trial.under_test, case, inputs))
    except Exception as error:
        raise raised(trial, Ability.COMPILE, error, "torch.compile") from None


@clause(stateless, enough=1, slow=True, hazard=2, requires=(has_elements, *PLAIN))
def compiled_refusal(trial: Trial) -> Judgement:
    """An invalid call that raises without `torch.compile` raises with it too."""
    case = trial.case
    _check_compiles(trial)
    invalid = [each for each in _invalid(trial) if trial.refusal(**each[1]).error is not None]
    for breach, replaced in invalid:
        given = arguments(trial.under_test, case, trial.device)
        under_way(case, replaced)
        given |= {name: replaced[name] for name in replaced if name in given}
        others = {name: value for name, value in replaced.items() if name not in given}
        try:
            with _silent():
                call = constructed(trial.under_test, case, given, others)
                got = _compiled(call)(handed(trial.under_test, case, given))
        except Exception:
            pass  # as without torch.compile
        else:
            what = f"{breach}, yet nothing was raised under torch.compile"
            raise Deviation(what, got, "an error", check=None, accepted=True)
    if not invalid:
        raise NotJudged(Excuse.NOT_ABOUT, "none of the invalid calls raises without torch.compile")
    return True


@cache
def _module_class() -> type[torch.nn.Module]:
    """Return a class that wraps a call in a module, which torch.export needs."""

    class Called(torch.nn.Module):
        def __init__(self, call: Callable[[Any], Any]) -> None:
            super().__init__()
            self.call = call

        def forward(self, given: dict[str, Any]) -> Any:
            return self.call(given)

    return Called


@clause(stateless, chosen=1, slow=True, requires=(_of_a_mean, *COMPILED))
def exported(trial: Trial) -> Judgement:
    """The program that `torch.export` makes of a call gives the right value."""
    case = trial.case.with_(requires_grad=())
    inputs = arguments(trial.under_test, case, trial.device)
    module = _module_class()(constructed(trial.under_test, case, inputs, {}))
    given = handed(trial.under_test, case, inputs)
    try:
        with _silent():
            got = torch.export.export(module, (given,)).module()(given)
    except Exception as error:
        raise raised(trial, Ability.EXPORT, error, "torch.export") from None
    value = to_extended(as_tensor(got, "the exported program"))
    want = trial.expected.value(case.reduction)
    return trial.agree(value, want, "the value of the exported program", of=None)


def _of_a_module(loss: Loss, surface: Surface) -> bool:
    return surface == "class" and stateless(loss, surface)


#: The calls of a scripted module: torch records the first ones, then runs an optimized program.
_SCRIPTED_CALLS = 3


# Slow because torch.jit is deprecated, so that few users script a loss.
@clause(_of_a_module, enough=20, slow=True, requires=(_tells, *PLAIN))
def scripted(trial: Trial) -> Judgement:
    """If `torch.jit.script` takes a module, the scripted module gives the right value and
    gradients, also in later calls."""
    case = trial.case
    inputs = arguments(trial.under_test, case, trial.device)
    call = Call.of(trial.under_test, case)
    module = call.instance(inputs)
    if not isinstance(module, torch.nn.Module):
        raise NotJudged(Excuse.NOT_ABOUT, "the class does not make a torch.nn.Module")
    try:
        with _silent():
            program = torch.jit.script(module)
            results = []
            for _ in range(_SCRIPTED_CALLS):
                given = call.handed(inputs)  # through functions that have a graph of their own
                results.append(program(*(given[each.name] for each in call.positional)))
    except Exception as error:
        raise raised(trial, Ability.SCRIPT, error, "torch.jit.script") from None
    informative = False
    for count, result in enumerate(results, 1):
        what = f"call {count} of the scripted module"
        value = as_tensor(result if call.result is None else taken_from(result, call.result), what)
        want = trial.expected.value(case.reduction)
        informative |= trial.agree(to_extended(value), want, f"the value of {what}", of=None)
        _judge_scripted_gradients(trial, inputs, value, what)
    return informative


def _judge_scripted_gradients(
    trial: Trial, inputs: Mapping[str, Any], value: Any, what: str
) -> None:
    """Judge the gradients of one call of a scripted module.

    Args:
        trial: The trial of the case.
        inputs: The tensors of the call, by name.
        value: The result of the call.
        what: The call, for the report.
    """
    wanted = trial.expected.gradients()
    for name in wanted:
        inputs[name].grad = None
    if differentiable(value):
        returned(lambda: backward_from(value, trial.case), f"backward of {what}", "gradients")
    for name, want in wanted.items():
        gradient = inputs[name].grad
        if gradient is not None:
            of = f"the gradient of {name} in {what}"
            trial.agree(to_extended(gradient), want, of, of=None, gradient_of=name)
        elif trial.outcome.gradients.get(name) is not None:
            raise Deviation(f"no gradient of {name} in {what}", None, "a gradient", check=None)
