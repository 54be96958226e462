"""One call of an implementation for one case, and all that it left behind."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

import numpy as np
import torch

from lossspec.cases import Case
from lossspec.implementations import Subject
from lossspec.patience import STOPS
from lossspec.spec import Loss, Role
from lossspec.switches import Changed, preserved
from lossspec.tensors import same_bits, to_torch
from lossspec.whereabouts import under_way

Phase = Literal["construct", "call", "backward"]


@dataclass(frozen=True, eq=False)
class Expression:
    """What a Python expression in torch stands for; a function prints as, and equals, the text."""

    text: str

    @property
    def meaning(self) -> Any:
        """The object that the expression makes; a function is the expression itself."""
        made = eval(self.text, {"torch": torch})
        return self if callable(made) else made

    def __call__(self, *tensors: Any) -> Any:
        """Call what the expression stands for."""
        return eval(self.text, {"torch": torch})(*tensors)

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return self.text == str(other)

    def __hash__(self) -> int:
        return hash(self.text)


@dataclass
class Outcome:
    """What came of a call: a value and gradients, or an error and the phase that raised it.

    inputs : the tensors that were handed over, after the call. before : copies from before it.
    gradients : of the tensors that required one; None where backward left none. written : the
    gradient from upstream after backward and before it, where that has written to it. changed :
    torch's switches that were not left as they were, which they are again.
    """

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    value: Any = None
    gradients: dict[str, torch.Tensor | None] = field(default_factory=dict)
    error: BaseException | None = None
    phase: Phase = "construct"
    written: tuple[torch.Tensor, torch.Tensor] | None = None
    #: Whether the value has a wrong shape and so many elements that nothing but its shape is asked.
    oversized: bool = False
    warnings: list[str] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)

    @property
    def returned(self) -> bool:
        """Whether the call gave a value (its backward may still have failed)."""
        return self.error is None or self.phase == "backward"

    def keep(self, tensors: Mapping[str, Any]) -> None:
        """Take note of what is handed over, before it is."""
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.Tensor) and self.inputs.get(name) is not tensor:
                self.inputs[name] = tensor
                self.before[name] = tensor.detach().clone()

    def touched(self) -> list[str]:
        """Inputs that no longer hold the bits they were handed over with."""
        return [
            name
            for name, tensor in self.inputs.items()
            if not same_bits(tensor.detach(), self.before[name])
        ]


def lacking(subject: Subject, case: Case) -> str | None:
    """The first argument of a case that the subject's signature lacks, if any."""
    loss, form = subject.loss, subject.loss.form(case.form)
    for name in case.tensors:
        if name in form.tensors:
            continue
        taken = subject.takes(name) or name in owned(subject, case)
        if subject.surface not in loss.options[name].surfaces or not taken:
            return name
    for name in constructor(subject, case):
        if not subject.takes(name):
            return name
    for name, parameter in loss.parameters_of(form).items():
        if not subject.takes(name) and (
            case.parameters[name] != parameter.default or _ignores(loss, case, name)
        ):
            return name
    if subject.takes("reduction") or (subject.surface == "class" and loss.results):
        return None
    return None if case.reduction == loss.reductions[0] else f"reduction={case.reduction!r}"


def _ignores(loss: Loss, case: Case, name: str) -> bool:
    """Whether a parameter is the index of targets that do not count, and some are of it."""
    roles = loss.form(case.form).tensors.items()
    return any(
        getattr(role, "ignored_by", None) == name
        and bool((case.tensors[given] == case.parameters[name]).any())
        for given, role in roles
    )


def without(subject: Subject, case: Case, name: str) -> Case | None:
    """The case without an argument that the subject lacks; None where it is no case without it."""
    loss, form = subject.loss, subject.loss.form(case.form)
    if name.startswith("reduction="):
        return case.with_(reduction=loss.reductions[0])
    if name in loss.options:
        return case.with_(
            tensors={n: x for n, x in case.tensors.items() if n != name},
            layouts={n: layout for n, layout in case.layouts.items() if n != name},
            requires_grad=tuple(n for n in case.requires_grad if n != name),
        )
    if name not in loss.parameters_of(form) or name in form.fixed:
        return None
    default = loss.parameters[name].default
    tensors = dict(case.tensors)
    if _ignores(loss, case, name):
        if not all(np.isfinite(x).all() for x in tensors.values() if x.dtype.kind not in "iub"):
            return None  # what lies in an ignored row was not meant to count
        for given, role in form.tensors.items():
            if getattr(role, "ignored_by", None) == name:
                array = tensors[given]
                tensors[given] = np.where(array == case.parameters[name], 0, array).astype(
                    array.dtype
                )
    return case.with_(
        tensors=tensors,
        parameters={**case.parameters, name: default},
        omitted=case.omitted | {name},
    )


def owned(subject: Subject, case: Case) -> dict[str, str]:
    """The tensors that the class owns, with the names of its parameters."""
    if subject.surface == "function":
        return {}
    roles = subject.loss.roles(subject.loss.form(case.form))
    return {name: path for name in case.tensors if (path := roles[name].state) is not None}


def constructor(subject: Subject, case: Case) -> dict[str, Any]:
    """What the class's constructor takes besides parameters and tensors."""
    derive = subject.loss.constructor
    if subject.surface == "function" or derive is None:
        return {}
    return derive(case.axis_sizes(subject.loss), case.tensors)


def keywords(subject: Subject, case: Case, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a call passes by keyword."""
    positional = {**subject.loss.form(case.form).tensors, **owned(subject, case)}
    passed = {name: tensors[name] for name in tensors if name not in positional}
    passed |= constructor(subject, case)
    for name, value in case.parameters.items():
        if name not in case.omitted and subject.takes(name):
            code = subject.loss.parameters[name].code and value is not None
            passed[name] = Expression(value) if code else value
    if subject.takes("reduction"):
        passed["reduction"] = case.reduction
    return passed


def arguments(subject: Subject, case: Case, device: str) -> dict[str, Any]:
    """The case's tensors as torch tensors, laid out and requiring gradients as it says.

    The crash checkpoint takes the case for the call that comes next.
    """
    under_way(case)
    roles = subject.loss.roles(subject.loss.form(case.form))
    tensors: dict[str, Any] = {}
    for name, array in case.tensors.items():
        tensors[name] = argument(roles[name], array, case.layouts.get(name, "contiguous"), device)
        if name in case.requires_grad:
            tensors[name].requires_grad_()
    return tensors


def argument(
    role: Role, given: Any, layout: str = "contiguous", device: str = "cpu"
) -> torch.Tensor | float | tuple[float, ...]:
    """What is passed for the numbers of one role; anything but an array as it is."""
    if not isinstance(given, np.ndarray):
        return given
    if not role.scalar:
        return to_torch(given, layout, device)
    plain = (given if role.integer else given.astype(np.float64)).tolist()
    return tuple(plain) if given.ndim else plain


def invoke(subject: Subject, case: Case, tensors: Mapping[str, Any]) -> Any:
    """The case's call on other tensors than its own: traced ones, say."""
    given = dict(tensors)
    return constructed(subject, case, given, {})(handed(subject, case, given))


def ready(
    subject: Subject, case: Case, device: str = "cpu"
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The case constructed once, to be called as often as one likes on the same tensors."""
    tensors = arguments(subject, case, device)
    call = constructed(subject, case, tensors, {})
    inputs = {n: t for n, t in tensors.items() if isinstance(t, torch.Tensor)}

    def again() -> Any:
        with preserved():
            return call(handed(subject, case, tensors))

    return again, inputs


def constructed(
    subject: Subject, case: Case, tensors: dict[str, Any], replaced: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Any]:
    """What takes the tensors of a case; those that the class owns become its parameters."""
    target = instance(subject, case, tensors, replaced)
    own = owned(subject, case)
    given = [name for name in subject.loss.form(case.form).tensors if name not in own]
    result = subject.loss.results.get(case.reduction) if subject.surface == "class" else None

    def call(tensors: Mapping[str, Any]) -> Any:
        value = target(*(tensors[name] for name in given))
        return value if result is None else getattr(value, result)

    return call


def instance(
    subject: Subject, case: Case, tensors: dict[str, Any], replaced: Mapping[str, Any]
) -> Any:
    """The module or the function with its keywords; tensors that it owns become its parameters."""
    passed = {**keywords(subject, case, tensors), **replaced}
    target: Any = subject.construct(
        {
            name: given.meaning if isinstance(given, Expression) else given
            for name, given in passed.items()
        }
    )
    if isinstance(target, torch.nn.Module):
        _move(target, tensors)
    for name, path in owned(subject, case).items():
        shape = getattr(dict(target.named_parameters()).get(path), "shape", None)
        if replaced and (shape is None or shape.numel() != tensors[name].numel()):
            continue  # the constructor has made another module where it should have raised
        parameter = target.get_parameter(path)
        parameter.data = torch.reshape(tensors[name], parameter.shape).detach()
        tensors[name] = parameter.requires_grad_(tensors[name].requires_grad)
    return target


def _move(module: torch.nn.Module, tensors: Mapping[str, Any]) -> None:
    """Put a module where its tensors are, since it is constructed on the host."""
    places = (tensor.device for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
    device = next(places, torch.device("cpu"))
    if device.type != "cpu":
        module.to(device)


def handed(subject: Subject, case: Case, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What a call gets: the tensors, or what they become on their way to it."""
    given = dict(tensors)
    for (name, role), axes in zip(
        subject.loss.form(case.form).tensors.items(), case.shape.inputs, strict=True
    ):
        if role.through is not None and isinstance(tensors[name], torch.Tensor):
            given[name] = getattr(torch, role.through)(tensors[name], dim=axes.index("C"))
    return given


def perform(
    subject: Subject,
    case: Case,
    device: str = "cpu",
    *,
    backward: bool = True,
    replaced: Mapping[str, Any] | None = None,
) -> Outcome:
    """Construct, call and go backward, catching whatever the implementation raises.

    replaced : arguments (tensors, parameters, reduction) to pass instead of the case's own.
    """
    replaced = dict(replaced or {})
    tensors = arguments(subject, case, device)
    if replaced:
        under_way(case, replaced)
    tensors |= {name: replaced.pop(name) for name in list(replaced) if name in tensors}
    outcome = Outcome()
    outcome.keep(tensors)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with preserved(outcome.changed):
                call = constructed(subject, case, tensors, replaced)
                given = handed(subject, case, tensors)
                outcome.keep(given)
                outcome.phase = "call"
                outcome.value = dense(call(given))
            outcome.phase = "backward"
            outcome.oversized = oversized(outcome.value, case)
            if backward and not outcome.oversized and differentiable(outcome.value):
                with preserved(outcome.changed):
                    outcome.written = backward_from(outcome.value, case)
        except STOPS:
            raise
        except BaseException as error:  # sys.exit too ends a call, and no more than that
            outcome.error = legible(error)
    outcome.warnings = [str(warning.message) for warning in caught]
    outcome.gradients = {
        name: tensors[name].grad
        for name in case.requires_grad
        if isinstance(tensors[name], torch.Tensor)
    }
    parameters = owned(subject, case).keys() if outcome.error is None else set()
    for name in parameters & outcome.gradients.keys():
        gradient = outcome.gradients[name]
        if gradient is None:  # a parameter that a call makes no use of
            gradient = torch.zeros_like(tensors[name])
        outcome.gradients[name] = gradient.reshape(case.tensors[name].shape)
    return outcome


def unimplemented(error: BaseException | None) -> TypeGuard[NotImplementedError]:
    """Whether an error says that an implementation lacks something, which is no deviation."""
    return isinstance(error, NotImplementedError)


def legible(error: BaseException) -> BaseException:
    """The error or, where its message cannot be made, one of the same name that says so."""
    try:
        str(error)
    except Exception as second:
        text = f"its message cannot be read: {type(second).__name__}"
        return type(type(error).__name__, (Exception,), {})(text)
    return error


def dense(value: Any) -> Any:
    """What came back; in place of a tensor without plain numbers, a thing named after its kind."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_nested:
        kind = "nested"
    elif value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
    elif value.is_meta:
        kind = "meta"
    else:
        return value
    return type(f"a {kind} tensor, without plain numbers", (), {})()


#: A result of so many elements is looked at only where the contract gives it as many.
MOST = 2**20


def oversized(value: Any, case: Case) -> bool:
    """Whether a result has another shape than the contract's and too many numbers to be read."""
    if not isinstance(value, torch.Tensor) or value.shape == case.cotangent.shape:
        return False
    return value.numel() > max(MOST, case.cotangent.size)


class _HandedOver(torch.autograd.Function):
    """What follows a result in the graph, and hands it a tensor as its gradient."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.gradient = gradient
        return value.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.gradient, None


def backward_from(
    value: torch.Tensor, case: Case, *, retain_graph: bool = False
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Go backward from a result with the cotangent of the case.

    Returns the cotangent as it is afterwards, and as it was, where it has been written to.
    """
    layout = case.upstream_layout(case.reduction)
    upstream = to_torch(case.upstream(case.reduction), layout, str(value.device)).to(value.dtype)
    if layout == "expanded" and value.numel():
        upstream = upstream.flatten()[0]  # as of a sum: one number for all
    if upstream.ndim and upstream.shape != value.shape:
        upstream = upstream.new_ones(())  # clause `result-shape` tells of such a result
    upstream = upstream.expand(value.shape)
    before = upstream.clone()
    if value.is_complex():
        torch.autograd.backward(value, upstream, retain_graph=retain_graph)
    else:
        # Given a cotangent, torch would import its symbolic shapes first, which takes a second.
        end: torch.Tensor = _HandedOver.apply(value, upstream)  # type: ignore[no-untyped-call]
        torch.autograd.backward(end, retain_graph=retain_graph)
    return None if same_bits(upstream, before) else (upstream, before)


def differentiable(value: Any) -> bool:
    """Whether backward can start from a result."""
    return isinstance(value, torch.Tensor) and value.requires_grad


#: How numbers leave torch, and come back without a graph.
_LEAVING = {"numpy", "__array__", "tolist", "item", "__dlpack__", "data_ptr"}


def leaves_torch(subject: Subject, case: Case, device: str = "cpu") -> bool:
    """Whether a call takes the numbers of its tensors out of torch, to compute elsewhere."""
    left: list[str] = []

    class Watched(torch.Tensor):
        """Notes what is asked of it and of whatever is made of it."""

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            left.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]

    case = case.with_(requires_grad=())
    try:
        inputs = arguments(subject, case, device)
        invoke(
            subject,
            case,
            {
                n: x.as_subclass(Watched) if isinstance(x, torch.Tensor) else x
                for n, x in inputs.items()
            },
        )
    except STOPS:
        raise
    except BaseException:
        return True  # it can only be told that it is no composition of torch's operations
    return bool(_LEAVING & set(left))
