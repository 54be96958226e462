"""A call: the arguments that an implementation gets for a case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.execution.checkpoint import under_way
from lossspec.execution.global_state import preserved
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.tensors import to_torch
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Role


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


def unsupported_argument(under_test: LossUnderTest, case: Case) -> str | None:
    """The first argument of a case that the implementation's signature lacks, if any."""
    loss, form = under_test.loss, under_test.loss.form(case.form)
    for name in case.tensors:
        if name in form.tensors:
            continue
        taken = under_test.takes(name) or name in owned(under_test, case)
        if under_test.surface not in loss.options[name].surfaces or not taken:
            return name
    for name in constructor(under_test, case):
        if not under_test.takes(name):
            return name
    for name in loss.parameters_of(form):
        if not under_test.takes(name) and (
            case.parameters[name] != under_test.lacked(name)
            or (name not in under_test.conventions and _ignores(loss, case, name))
        ):
            return name
    if under_test.takes("reduction") or (under_test.surface == "class" and loss.results):
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


def without(under_test: LossUnderTest, case: Case, name: str) -> Case | None:
    """Drop an argument that the implementation does not take.

    None if the remaining call is not valid.
    """
    loss, form = under_test.loss, under_test.loss.form(case.form)
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
    default = under_test.lacked(name)
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


def owned(under_test: LossUnderTest, case: Case) -> dict[str, str]:
    """The tensors that the class owns, with the names of its parameters."""
    if under_test.surface == "function":
        return {}
    roles = under_test.loss.roles(under_test.loss.form(case.form))
    return {name: path for name in case.tensors if (path := roles[name].state) is not None}


def constructor(under_test: LossUnderTest, case: Case) -> dict[str, Any]:
    """What the class's constructor takes besides parameters and tensors."""
    derive = under_test.loss.constructor
    if under_test.surface == "function" or derive is None:
        return {}
    return dict(derive(case.axis_sizes(under_test.loss), case.tensors))


@dataclass(frozen=True)
class Positional:
    """A tensor that is passed by position; through : torch's function that it goes through first.

    axis : the axis along which that function works.
    """

    name: str
    through: str | None = None
    axis: int | None = None

    def passed(self, given: Any) -> Any:
        """Return what the call gets for a tensor; anything else goes as it is."""
        if self.through is None or not isinstance(given, torch.Tensor):
            return given
        return getattr(torch, self.through)(given, dim=self.axis)


@dataclass(frozen=True, eq=False)
class Call:
    """A case as a call of an implementation: it is executed, printed and written as a script.

    positional : what goes by position, in order. tensor_keywords : tensors that go by keyword.
    keywords : everything else that goes by keyword; the class surface passes both kinds of
    keywords to its constructor. owned : tensors that the class owns, with the names of its
    parameters. result : the attribute of what the call returns that holds the loss, if any.
    replaced : tensors, parameters or a reduction that stand in place of the case's own.
    """

    under_test: LossUnderTest
    case: Case
    positional: tuple[Positional, ...]
    tensor_keywords: tuple[str, ...]
    keywords: Mapping[str, Any]
    owned: Mapping[str, str]
    result: str | None
    replaced: Mapping[str, Any]

    @classmethod
    def of(
        cls, under_test: LossUnderTest, case: Case, replaced: Mapping[str, Any] | None = None
    ) -> Call:
        """Derive a call from the spec, the implementation's signature and the case."""
        loss, replaced = under_test.loss, dict(replaced or {})
        form, own = loss.form(case.form), owned(under_test, case)
        inputs = zip(form.tensors.items(), case.shape.inputs, strict=True)
        others = {name: value for name, value in replaced.items() if name not in case.tensors}
        return cls(
            under_test,
            case,
            positional=tuple(
                Positional(name, role.through, axes.index(loss.classes) if role.through else None)
                for (name, role), axes in inputs
                if name not in own
            ),
            tensor_keywords=tuple(n for n in case.tensors if n not in {**form.tensors, **own}),
            keywords={**_keywords(under_test, case), **others},
            owned=own,
            result=loss.results.get(case.reduction) if under_test.surface == "class" else None,
            replaced=replaced,
        )

    @property
    def roles(self) -> Mapping[str, Role]:
        """The roles of the tensors."""
        return self.under_test.loss.roles(self.under_test.loss.form(self.case.form))

    @property
    def differentiated(self) -> tuple[str, ...]:
        """Names of the case's own tensors that require a gradient."""
        return tuple(name for name in self.case.requires_grad if name not in self.replaced)

    def passed_keywords(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that goes by keyword, taking tensors from a mapping."""
        return {**{name: tensors[name] for name in self.tensor_keywords}, **self.keywords}

    def meant_keywords(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The same, with the objects that expressions stand for."""
        return {
            name: given.meaning if isinstance(given, Expression) else given
            for name, given in self.passed_keywords(tensors).items()
        }

    def handed(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors that the call gets, as they are or as they become on their way to it."""
        given = dict(tensors)
        given.update((one.name, one.passed(tensors[one.name])) for one in self.positional)
        return given

    def instance(self, tensors: dict[str, Any]) -> Any:
        """Construct the module, or give the function its keywords.

        Tensors that the class owns become parameters, which take their places in `tensors`.
        """
        target: Any = self.under_test.construct(self.meant_keywords(tensors))
        if isinstance(target, torch.nn.Module):
            _move(target, tensors)
        altered = any(name not in self.case.tensors for name in self.replaced)
        for name, path in self.owned.items():
            shape = getattr(dict(target.named_parameters()).get(path), "shape", None)
            if altered and (shape is None or shape.numel() != tensors[name].numel()):
                continue  # the constructor has made another module where it should have raised
            parameter = target.get_parameter(path)
            parameter.data = torch.reshape(tensors[name], parameter.shape).detach()
            tensors[name] = parameter.requires_grad_(tensors[name].requires_grad)
        return target

    def constructed(self, tensors: dict[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
        """Construct it; what is returned takes the tensors as `handed` gives them."""
        target, result = self.instance(tensors), self.result
        given = [one.name for one in self.positional]

        def call(tensors: Mapping[str, Any]) -> Any:
            value = target(*(tensors[name] for name in given))
            return value if result is None else getattr(value, result)

        return call


def _keywords(under_test: LossUnderTest, case: Case) -> dict[str, Any]:
    """The arguments that go by keyword, tensors left out."""
    passed = constructor(under_test, case)
    for name, value in case.parameters.items():
        if name not in case.omitted and under_test.takes(name):
            code = under_test.loss.parameters[name].code and value is not None
            passed[name] = Expression(value) if code else value
    if under_test.takes("reduction"):
        passed["reduction"] = case.reduction
    return passed


def arguments(under_test: LossUnderTest, case: Case, device: str) -> dict[str, Any]:
    """The case's tensors as torch tensors, laid out and requiring gradients as it says.

    The crash checkpoint takes the case for the call that comes next.
    """
    under_way(case)
    roles = under_test.loss.roles(under_test.loss.form(case.form))
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


def keywords(under_test: LossUnderTest, case: Case, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a case's call passes by keyword."""
    return Call.of(under_test, case).passed_keywords(tensors)


def handed(under_test: LossUnderTest, case: Case, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors that a case's call gets, as they are or as they become on their way to it."""
    return Call.of(under_test, case).handed(tensors)


def instance(
    under_test: LossUnderTest, case: Case, tensors: dict[str, Any], replaced: Mapping[str, Any]
) -> Any:
    """The module or the function with its keywords; tensors that it owns become its parameters."""
    return Call.of(under_test, case, replaced).instance(tensors)


def constructed(
    under_test: LossUnderTest, case: Case, tensors: dict[str, Any], replaced: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Any]:
    """What takes the tensors of a case; those that the class owns become its parameters."""
    return Call.of(under_test, case, replaced).constructed(tensors)


def invoke(under_test: LossUnderTest, case: Case, tensors: Mapping[str, Any]) -> Any:
    """The case's call on other tensors than its own: traced ones, say."""
    given, call = dict(tensors), Call.of(under_test, case)
    return call.constructed(given)(call.handed(given))


def ready(
    under_test: LossUnderTest, case: Case, device: str = "cpu"
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The case constructed once, to be called as often as one likes on the same tensors."""
    tensors, call = arguments(under_test, case, device), Call.of(under_test, case)
    made = call.constructed(tensors)
    inputs = {n: t for n, t in tensors.items() if isinstance(t, torch.Tensor)}

    def again() -> Any:
        with preserved():
            return made(call.handed(tensors))

    return again, inputs


def _move(module: torch.nn.Module, tensors: Mapping[str, Any]) -> None:
    """Put a module where its tensors are, since it is constructed on the host."""
    places = (tensor.device for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
    device = next(places, torch.device("cpu"))
    if device.type != "cpu":
        module.to(device)
