"""Clauses on modules that are copied, pickled, moved or switched to evaluation."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause
from lossspec.clauses.ability import raised
from lossspec.clauses.precondition import documented_dtypes, precondition, works
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported, returned, tensor_of
from lossspec.excuse import Excuse
from lossspec.execution.call import Call, arguments, handed, instance, keywords, taken_from
from lossspec.execution.declaration import Ability
from lossspec.execution.tensors import same_bits, to_extended, torch_dtype
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.safe_text import foreign_error
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex, Surface


def _of_a_class(loss: Loss, surface: Surface) -> bool:
    return surface == "class"


def _module(loss: Loss, surface: Surface) -> bool:
    return surface == "class" and not loss.stateful(surface)


@precondition()
def _copies_can_be_written(trial: Trial) -> bool:
    """No tensor has elements that share memory, since torch refuses to copy into such tensors."""
    return "expanded" not in trial.case.layouts.values()


@precondition()
def _has_another_dtype(trial: Trial) -> bool:
    """The case is in float32 or float64, and the device can hold the other one."""
    other = OTHER.get(trial.case.dtype)
    return other is not None and trial.holds(other)


@precondition()
def _has_optional_tensors(trial: Trial) -> bool:
    """The call has an optional tensor."""
    return any(name in trial.loss.options for name in trial.case.tensors)


@precondition()
def _has_a_batch(trial: Trial) -> bool:
    """The call has a batch axis."""
    return trial.loss.batched(trial.case.shape)


#: The dtype that a module is moved to, by its own dtype.
OTHER = {"float32": "float64", "float64": "float32"}


def _made(trial: Trial, case: Case | None = None) -> tuple[Any, list[Any]]:
    """Return a module and the tensors of its call; raise NotJudged if the class makes no module.

    Args:
        trial: The trial of the case.
        case: The case to construct the module for; None for that of the trial.
    """
    case = (trial.case if case is None else case).with_(requires_grad=())
    tensors = arguments(trial.under_test, case, trial.device)
    call = Call.of(trial.under_test, case)
    if call.owned:
        module = call.instance(tensors)
    else:
        module = trial.under_test.target(**call.passed_keywords(tensors))
    if not isinstance(module, torch.nn.Module):
        raise NotJudged(Excuse.NOT_ABOUT, "the class does not make a torch.nn.Module")
    given = call.handed(tensors)
    return module, [given[each.name] for each in call.positional]


def _constructed_with(trial: Trial) -> list[str]:
    """Return the names of the tensors that the constructor gets."""
    owned = Call.of(trial.under_test, trial.case).owned
    options = trial.loss.options
    return [name for name in trial.case.tensors if name in options and name not in owned]


def _overwrite(module: torch.nn.Module) -> None:
    """Set every number in the buffers and parameters of a module to 0."""
    with torch.no_grad():
        for tensor in (*module.buffers(), *module.parameters()):
            tensor.zero_()


def _stored_plainly(trial: Trial) -> Trial:
    """Return the trial of the call with contiguous tensors.

    A copy of a sliced parameter is contiguous, and a matrix product of it may round otherwise.
    """
    if not trial.case.layouts:
        return trial
    plain = trial.solved.changed(trial.case.with_(layouts={}))
    found = Trial(trial.under_test, plain, trial.device)
    if found.outcome.error is not None:
        raise NotJudged(Excuse.CALL_FAILS)
    return found


def _same(trial: Trial, module: Any, given: list[Any], what: str) -> None:
    result = Call.of(trial.under_test, trial.case).result

    def called() -> Any:
        value = module(*given)
        return value if result is None else taken_from(value, result)

    got, want = returned(called, what, "the same value"), trial.outcome.value.detach()
    if not isinstance(got, torch.Tensor) or not same_bits(got.detach(), want):
        raise Deviation(what, got, want, check=None, case=trial.case)


@clause(_of_a_class, enough=20, requires=(_copies_can_be_written, works))
def pickled(trial: Trial) -> Judgement:
    """A copy, a deep copy, and a pickled and unpickled module give the same value. The last two
    share no tensor with the original."""
    trial = _stored_plainly(trial)
    module, given = _made(trial)
    shallow = returned(lambda: copy.copy(module), "copy.copy", "a module")
    _same(trial, shallow, given, "a copy")
    deep = returned(lambda: copy.deepcopy(module), "copy.deepcopy", "a module")
    _same(trial, deep, given, "a deep copy")
    loaded = None
    # Pickle cannot find a local class by name, for which the module is not to blame.
    if all(map(_pickles, (type(module), *trial.case.parameters.values()))):
        data = returned(lambda: pickle.dumps(module), "pickling", "bytes")
        loaded = pickle.loads(data)
        _same(trial, loaded, given, "a pickled module")
    _overwrite(module)
    _same(trial, deep, given, "a deep copy, after the tensors of the original changed,")
    if loaded is not None:
        _same(trial, loaded, given, "a pickled module, after the tensors of the original changed,")
    return _tells(trial)


def _tells(trial: Trial) -> bool:
    """Return whether the module holds a tensor, or the implementation takes none."""
    loss, under_test = trial.loss, trial.under_test
    if loss.stateful(under_test.surface):
        return True
    taken = [
        name
        for name, role in loss.options.items()
        if under_test.surface in role.surfaces and under_test.takes(name)
    ]
    return bool(_constructed_with(trial)) or not taken


def _pickles(thing: Any) -> bool:
    try:
        pickle.dumps(thing)
    except Exception:
        return False
    return True


@clause(_of_a_class, enough=20, requires=(_copies_can_be_written, works))
def state_dict(trial: Trial) -> Judgement:
    """The `state_dict` of a module holds the tensors of its constructor under their names, and the
    parameters that the spec names, and nothing else. After a call it loads into a module
    constructed with other tensors, which then gives the same value, also with `assign=True`. The
    module has no further trainable parameters."""
    trial = _stored_plainly(trial)
    module, given = _made(trial)
    owned = set(Call.of(trial.under_test, trial.case).owned.values())
    names = _constructed_with(trial)
    module(*given)
    state = module.state_dict()
    # A module may hold another one, whose name then stands before that of the tensor.
    found = sorted({name.rpartition(".")[2] for name in state.keys() - owned})
    if found != sorted(names):
        raise Deviation("the names in the state_dict", found, sorted(names), check=None)
    trained = [name for name, _ in module.named_parameters() if name not in owned]
    if trained:
        raise Deviation("the parameters of the module", trained, [], check=None)
    others = {name: np.zeros_like(trial.case.tensors[name]) for name in names}
    other = trial.case.with_(tensors={**trial.case.tensors, **others})
    for assign, how in ((False, ""), (True, " (assign=True)")):
        fresh, _ = _made(trial, other)
        if owned:
            _overwrite(fresh)
        loading = partial(fresh.load_state_dict, state, assign=assign)
        returned(loading, f"loading its state_dict{how}", "it loads")
        _same(trial, fresh, given, f"a module with the loaded state{how}")
    return _tells(trial)


@clause(_of_a_class, enough=1, once=True, requires=(works,))
def representation(trial: Trial) -> Judgement:
    """`repr` of a module returns text, as that of every `torch.nn.Module` does."""
    module, _ = _made(trial)
    returned(lambda: repr(module), "repr", "text")
    return True


@clause(lambda loss, surface: surface == "class", enough=20, requires=(works,))
def evaluation_mode(trial: Trial) -> Judgement:
    """After `eval()` and after `train()`, a module gives the same value, with a graph. After its
    parameters or the numbers of its inputs changed, it uses the new ones, also in evaluation
    mode."""
    call = Call.of(trial.under_test, trial.case)
    tensors = arguments(trial.under_test, trial.case, trial.device)
    module = call.instance(tensors)
    if not isinstance(module, torch.nn.Module):
        raise NotJudged(Excuse.NOT_ABOUT, "the class does not make a torch.nn.Module")
    given = call.handed(tensors)

    def called() -> Any:
        value = module(*(given[each.name] for each in call.positional))
        return value if call.result is None else taken_from(value, call.result)

    want = trial.outcome.value
    for mode, switch in (("evaluation", module.eval), ("training", module.train)):
        switch()
        got = returned(called, f"the value in {mode} mode", "the same value")
        if not isinstance(got, torch.Tensor) or not same_bits(got.detach(), want.detach()):
            raise Deviation(f"the value in {mode} mode", got, want.detach(), check=None)
        if want.requires_grad and not got.requires_grad:
            what = f"the value in {mode} mode has no graph"
            raise Deviation(what, "requires_grad=False", "requires_grad=True", check=None)
    _judge_changed_parameters(module, called)
    _judge_changed_inputs(module, [given[each.name] for each in call.positional], called)
    return True


def _judge_changed_parameters(module: torch.nn.Module, call: Callable[[], Any]) -> None:
    """Raise Deviation if evaluation mode uses parameters that were changed since."""
    if not any(True for _ in module.parameters()):
        return
    what = "the value in evaluation mode after the parameters changed"
    module.eval()
    with torch.no_grad():
        returned(call, what)
        for parameter in module.parameters():
            parameter.data = parameter * -0.5  # not in place: elements may share memory
        got = tensor_of(call, what)
    module.train()
    want = tensor_of(call, what)
    if not same_bits(got.detach(), want.detach()):
        raise Deviation(what, got, want.detach(), check=None)


def _judge_changed_inputs(
    module: torch.nn.Module, inputs: Sequence[Any], call: Callable[[], Any]
) -> None:
    """Raise Deviation if evaluation mode uses numbers of an input that were changed in place.

    Args:
        module: The module.
        inputs: What it is called with.
        call: Calls it with these inputs.
    """
    tensors = [x for x in inputs if isinstance(x, torch.Tensor) and x.is_floating_point()]
    changed = [x for x in tensors if x.ndim and 0 not in x.stride()]  # no elements share memory
    what = "the value in evaluation mode after the inputs changed in place"
    with torch.no_grad():
        module.eval()
        returned(call, what)
        for tensor in changed:
            tensor.copy_(tensor.flip(0))
        got = tensor_of(call, what)
        module.train()
        want = tensor_of(call, what)
    if not same_bits(got.detach(), want.detach()):
        raise Deviation(what, got, want.detach(), check=None)


#: A number that no initialization draws.
_UNDRAWN = 12345.0


@clause(lambda loss, surface: loss.stateful(surface), enough=1, once=True, requires=(works,))
def reset_parameters(trial: Trial) -> Judgement:
    """If a module has the method `reset_parameters`, as those of torch.nn have, it draws every
    parameter anew."""
    module = instance(
        trial.under_test, trial.case, arguments(trial.under_test, trial.case, trial.device), {}
    )
    if not hasattr(module, "reset_parameters"):
        raise Unsupported("it has no method reset_parameters")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.data = torch.full_like(parameter, _UNDRAWN)
    returned(module.reset_parameters, "reset_parameters", "None")
    kept = [name for name, p in module.named_parameters() if (p == _UNDRAWN).any()]
    if kept:
        raise Deviation("the parameters that reset_parameters keeps", kept, [], check=None)
    return True


@clause(lambda loss, surface: loss.stateful(surface), enough=1, once=True, requires=(works,))
def constructed_in_dtype(trial: Trial) -> Judgement:
    """If the constructor takes `dtype`, as those of torch.nn do, every parameter has that dtype."""
    tensors = arguments(trial.under_test, trial.case, trial.device)
    given = Call.of(trial.under_test, trial.case).meant_keywords(tensors)
    for dtype in (torch.float64, torch.bfloat16):
        try:
            module = trial.under_test.target(**given, dtype=dtype)
        except Exception as error:
            raise Unsupported(f"it takes no dtype={dtype} ({foreign_error(error)})") from None
        if not isinstance(module, torch.nn.Module):
            raise NotJudged(Excuse.NOT_ABOUT, "the class does not make a torch.nn.Module")
        for name, parameter in module.named_parameters():
            if parameter.dtype != dtype:
                what = f"the dtype of {name}, with dtype={dtype}"
                raise Deviation(what, parameter.dtype, dtype, check=None)
    return True


@cache
def _learned() -> type[torch.nn.Module]:
    """Return the class of a distance with a parameter; made late, since it loads torch."""

    class Learned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            x, y = tensors
            return self.scale * (x - y).square().flatten(1).sum(1)

    return Learned


def _function_of(loss: Loss) -> str | None:
    """Return the parameter that takes a function, such as a distance."""
    return next((name for name, each in loss.parameters.items() if each.code), None)


@clause(
    lambda loss, surface: _module(loss, surface) and _function_of(loss) is not None,
    enough=1,
    once=True,
    requires=(works,),
)
def registered(trial: Trial) -> Judgement:
    """If the constructor gets a module in place of a function, its parameters are among those of
    the loss, so that an optimizer and `state_dict` see them."""
    name, learned = _function_of(trial.loss), _learned()()
    assert name is not None
    given = {**keywords(trial.under_test, trial.case, {}), name: learned}
    try:
        module = trial.under_test.target(**given)
    except Exception as error:
        raise Unsupported(f"{name} cannot be a module ({foreign_error(error)})") from None
    if not isinstance(module, torch.nn.Module):
        raise NotJudged(Excuse.NOT_ABOUT, "the class does not make a torch.nn.Module")
    if not any(parameter is learned.scale for parameter in module.parameters()):
        found = [each for each, _ in module.named_parameters()]
        raise Deviation(f"the parameters, with {name} as a module", found, ["scale"], check=None)
    return True


@clause(_of_a_class, enough=20, requires=(_has_another_dtype, works))
def moved_to_dtype(trial: Trial) -> Judgement:
    """After `.to(dtype)`, a module works with inputs of that dtype and returns that dtype.
    Converting float32 to float64 and back keeps the value. Converting to bfloat16 and back leaves
    numbers, such as a margin, unchanged."""
    trial = _stored_plainly(trial)
    module, given = _made(trial)
    other = torch_dtype(OTHER[trial.case.dtype])
    if other is torch.float64:  # only widening and narrowing again is exact
        _same(trial, module.to(other).to(given[0].dtype), given, "the value after .to and back")
    call = Call.of(trial.under_test, trial.case)
    if not call.owned and not _constructed_with(trial):
        lower = _made(trial)[0].to(torch.bfloat16).to(given[0].dtype)
        _same(trial, lower, given, "the value after .to(torch.bfloat16) and back")
    module.to(other)
    moved = [
        x.to(other) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given
    ]
    got = returned(lambda: module(*moved), f"the call after .to({other})")
    if call.result is not None:
        got = taken_from(got, call.result)
    if isinstance(got, torch.Tensor) and got.dtype != other:
        raise Deviation(f"the dtype after .to({other})", got.dtype, other, check=None)
    return True


def _takes_tensors(loss: Loss, surface: Surface) -> bool:
    options = loss.options.values()
    return _module(loss, surface) and any(surface in role.surfaces for role in options)


# Slow because the first call on the meta device imports the compiler, which takes a second.
@clause(
    _takes_tensors, enough=8, slow=True, requires=(_has_optional_tensors, documented_dtypes, works)
)
def moved_to_device(trial: Trial) -> Judgement:
    """After `.to(device)`, a module constructed with tensors works with inputs on that device."""
    module, _ = _made(trial)
    # Every torch has the meta device, and refuses to mix its tensors with those of another device.
    there = arguments(trial.under_test, trial.case.with_(requires_grad=(), layouts={}), "meta")
    passed = handed(trial.under_test, trial.case, there)
    given = [passed[name] for name in trial.form.tensors]
    try:
        trial.under_test.target(**keywords(trial.under_test, trial.case, there))(*given)
    except Exception as error:
        lack = "it does not work with tensors on the meta device"
        raise raised(trial, Ability.FAKE_TENSORS, error, "the meta device", lack) from None
    returned(lambda: module.to("meta")(*given), "the call after .to(device)")
    return True


@clause(
    lambda loss, surface: surface == "class" and loss.ranks,
    enough=20,
    requires=(_has_a_batch, works),
)
def every_class(trial: Trial) -> Judgement:
    """`log_prob` gives the definition's result for each class, with a graph, and `predict` the
    class with the largest one."""
    first = next(iter(trial.form.tensors))
    case = trial.case.with_(requires_grad=(first,))
    tensors = arguments(trial.under_test, case, trial.device)
    module = instance(trial.under_test, case, tensors, {})
    if not (hasattr(module, "log_prob") and hasattr(module, "predict")):
        raise Unsupported("it has no method log_prob or no method predict")
    input = tensors[first]
    given = tensor_of(lambda: module.log_prob(input), "log_prob")
    wants = _of_each_class(trial)
    if tuple(given.shape) != (len(input), len(wants)):
        raise Deviation(
            "the shape of log_prob",
            tuple(given.shape),
            (len(input), len(wants)),
            check=None,
            case=case,
        )
    if not given.requires_grad:
        raise Deviation(
            "log_prob has no graph", "requires_grad=False", "requires_grad=True", check=None
        )
    scores = to_extended(given)
    informative = False
    for index, want in enumerate(wants):
        informative |= trial.agree(scores[:, index], want, f"log_prob of class {index}", of=None)
    chosen = tensor_of(lambda: module.predict(input), "predict")
    exact = np.stack([want.exact for want in wants], -1)
    budget = np.stack([want.budget for want in wants], -1)
    if chosen.shape != exact.shape[:-1]:
        raise Deviation(
            "the shape of predict", tuple(chosen.shape), exact.shape[:-1], check=None, case=case
        )
    predicted = chosen.numpy(force=True)
    for row, (best, got) in enumerate(zip(exact.argmax(-1), predicted, strict=True)):
        known = 0 <= got < len(wants)
        reach = budget[row, best] + budget[row, got] if known else 0.0
        if not known or exact[row, best] - exact[row, got] > reach:
            raise Deviation(f"predict at [{row}]", got, best, check=None, case=case)
    return informative


def _of_each_class(trial: Trial) -> list[Bounded]:
    """Return the right unreduced result for each class, as if it were the target in all rows."""
    name = next(n for n, role in trial.form.tensors.items() if isinstance(role, ClassIndex))
    case, target = trial.case, trial.case.tensors[name]
    return [
        SolvedCase(
            trial.loss,
            case.with_(
                tensors={**case.tensors, name: np.full_like(target, index)},
                reduction="none",
                requires_grad=(),
            ),
        ).expected.value("none")
        for index in range(case.axis_sizes(trial.loss)[trial.loss.classes])
    ]
