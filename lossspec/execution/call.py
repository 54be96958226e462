"""The call of an implementation for a case: how its arguments are built and passed."""

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
from lossspec.spec.loss import Key, Loss, place_text
from lossspec.spec.roles import Role


@dataclass(frozen=True, eq=False)
class Expression:
    """A Python expression that may use torch; it prints as, and equals, its text.

    Attributes:
        text: The source of the expression.
    """

    text: str

    @property
    def meaning(self) -> Any:
        """The value of the expression, or the expression itself if the value is callable."""
        made = eval(self.text, {"torch": torch})
        return self if callable(made) else made

    def __call__(self, *tensors: Any) -> Any:
        """Call the function that the expression evaluates to."""
        return eval(self.text, {"torch": torch})(*tensors)

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return self.text == str(other)

    def __hash__(self) -> int:
        return hash(self.text)


def unsupported_argument(under_test: LossUnderTest, case: Case) -> str | None:
    """Return the first argument of a case that the implementation does not take, if any."""
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
    if under_test.takes("reduction") or loss.returns_every_reduction(under_test.surface):
        return None
    return None if case.reduction == loss.reductions[0] else f"reduction={case.reduction!r}"


def _ignores(loss: Loss, case: Case, name: str) -> bool:
    """Return whether a parameter is an ignored index that occurs in the case's target."""
    roles = loss.form(case.form).tensors.items()
    return any(
        getattr(role, "ignored_by", None) == name
        and bool((case.tensors[given] == case.parameters[name]).any())
        for given, role in roles
    )


def without(under_test: LossUnderTest, case: Case, name: str) -> Case | None:
    """Drop an argument that the implementation does not take.

    Args:
        under_test: The implementation under test.
        case: The case with the argument.
        name: The argument, as `unsupported_argument` names it.

    Returns:
        The remaining case, or None if the remaining call is not valid.
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
            return None  # inf or nan of an ignored row would count without the parameter
        for given, role in form.tensors.items():
            if getattr(role, "ignored_by", None) == name:
                array = tensors[given]
                tensors[given] = np.where(array == case.parameters[name], 0, array).astype(
                    array.dtype
                )
    remaining = case.with_(
        tensors=tensors,
        parameters={**case.parameters, name: default},
        omitted=case.omitted | {name},
    )
    valid = loss.allows(form, remaining.axis_sizes(loss), remaining.parameters)
    return remaining if valid else None


def owned(under_test: LossUnderTest, case: Case) -> dict[str, str]:
    """Return the tensors that the class owns, with the paths of the module's parameters."""
    if under_test.surface == "function":
        return {}
    roles = under_test.loss.roles(under_test.loss.form(case.form))
    return {name: path for name in case.tensors if (path := roles[name].state) is not None}


def constructor(under_test: LossUnderTest, case: Case) -> dict[str, Any]:
    """Return the constructor's arguments other than parameters and tensors, such as sizes."""
    derive = under_test.loss.constructor
    if under_test.surface == "function" or derive is None:
        return {}
    return dict(derive(case.axis_sizes(under_test.loss), case.tensors))


@dataclass(frozen=True)
class Positional:
    """A tensor that is passed by position.

    Attributes:
        name: The tensor's name in the case.
        through: The function of torch that is applied to the tensor first, such as `log_softmax`.
        axis: The axis along which that function works.
    """

    name: str
    through: str | None = None
    axis: int | None = None

    def passed(self, given: Any) -> Any:
        """Apply `through` to a tensor; return anything else unchanged."""
        if self.through is None or not isinstance(given, torch.Tensor):
            return given
        return getattr(torch, self.through)(given, dim=self.axis)


@dataclass(frozen=True, eq=False)
class Call:
    """A case as a call of an implementation: it is executed, printed and written as a script.

    The class surface passes both kinds of keywords to the constructor.

    Attributes:
        under_test: The implementation under test.
        case: The case.
        positional: The tensors that are passed by position, in order.
        tensor_keywords: The names of the tensors that are passed by keyword.
        keywords: Everything else that is passed by keyword.
        owned: The tensors that the class owns, with the paths of the module's parameters.
        result: Where the returned object holds the loss, as in `Loss.results`; None if it is the
            loss itself.
        replaced: Tensors, parameters or a reduction that are passed instead of the case's own.
    """

    under_test: LossUnderTest
    case: Case
    positional: tuple[Positional, ...]
    tensor_keywords: tuple[str, ...]
    keywords: Mapping[str, Any]
    owned: Mapping[str, str]
    result: str | int | None
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
            result=loss.place_of(case.reduction, under_test.surface),
            replaced=replaced,
        )

    @property
    def roles(self) -> Mapping[str, Role]:
        """The role of each tensor, by name."""
        return self.under_test.loss.roles(self.under_test.loss.form(self.case.form))

    @property
    def differentiated(self) -> tuple[str, ...]:
        """Names of the case's own tensors that require a gradient."""
        return tuple(name for name in self.case.requires_grad if name not in self.replaced)

    def passed_keywords(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that is passed by keyword, with its tensors from a mapping."""
        return {**{name: tensors[name] for name in self.tensor_keywords}, **self.keywords}

    def meant_keywords(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the same as `passed_keywords`, with each `Expression` evaluated."""
        return {
            name: given.meaning if isinstance(given, Expression) else given
            for name, given in self.passed_keywords(tensors).items()
        }

    def handed(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tensors that the call gets, after the functions in `Positional.through`."""
        given = dict(tensors)
        given.update((one.name, one.passed(tensors[one.name])) for one in self.positional)
        return given

    def instance(self, tensors: dict[str, Any]) -> Any:
        """Construct the module, or bind the function to its keywords.

        Args:
            tensors: The case's tensors, by name. Those that the class owns are copied into the
                module's parameters, and the parameters replace them in this dictionary.

        Returns:
            The callable that takes the positional tensors.
        """
        target: Any = self.under_test.construct(self.meant_keywords(tensors))
        if isinstance(target, torch.nn.Module):
            _move(target, tensors)
        altered = any(name not in self.case.tensors for name in self.replaced)
        for name, path in self.owned.items():
            shape = getattr(dict(target.named_parameters()).get(path), "shape", None)
            if altered and (shape is None or shape.numel() != tensors[name].numel()):
                continue  # the constructor accepted arguments that it should have refused
            parameter = target.get_parameter(path)
            parameter.data = torch.reshape(tensors[name], parameter.shape).detach()
            tensors[name] = parameter.requires_grad_(tensors[name].requires_grad)
        return target

    def constructed(self, tensors: dict[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
        """Construct the call; return a function of the tensors that `handed` returns."""
        target, result = self.instance(tensors), self.result
        given = [one.name for one in self.positional]

        def call(tensors: Mapping[str, Any]) -> Any:
            value = target(*(tensors[name] for name in given))
            return value if result is None else taken_from(value, result)

        return call


def taken_from(value: Any, place: str | int) -> Any:
    """Return the loss that the result of a call holds.

    Args:
        value: The result.
        place: Where it holds the loss, as in `Loss.results`.

    Raises:
        TypeError: The result is a tensor, so it holds nothing.
    """
    if isinstance(value, torch.Tensor):
        raise TypeError(f"the call returned a tensor, not a result with {place_text(place)}")
    return value[place] if isinstance(place, Key | int) else getattr(value, place)


def _keywords(under_test: LossUnderTest, case: Case) -> dict[str, Any]:
    """Return the arguments that are passed by keyword, without tensors."""
    passed = constructor(under_test, case)
    for name, value in case.parameters.items():
        if name not in case.omitted and under_test.takes(name):
            code = under_test.loss.parameters[name].code and value is not None
            passed[name] = Expression(value) if code else value
    if under_test.takes("reduction"):
        passed["reduction"] = case.reduction
    return passed


def arguments(under_test: LossUnderTest, case: Case, device: str) -> dict[str, Any]:
    """Return the case's tensors as torch tensors, with its layouts and required gradients.

    The case is recorded in the crash checkpoint, since its call comes next.
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
    """Return the argument for the numbers of one role; return anything but an array unchanged."""
    if not isinstance(given, np.ndarray):
        return given
    if not role.scalar:
        return to_torch(given, layout, device)
    plain = (given if role.integer else given.astype(np.float64)).tolist()
    return tuple(plain) if given.ndim else plain


def keywords(under_test: LossUnderTest, case: Case, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that the call of a case passes by keyword."""
    return Call.of(under_test, case).passed_keywords(tensors)


def handed(under_test: LossUnderTest, case: Case, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors that the call of a case gets, as `Call.handed` does."""
    return Call.of(under_test, case).handed(tensors)


def instance(
    under_test: LossUnderTest, case: Case, tensors: dict[str, Any], replaced: Mapping[str, Any]
) -> Any:
    """Construct the module of a case, or bind the function, as `Call.instance` does."""
    return Call.of(under_test, case, replaced).instance(tensors)


def constructed(
    under_test: LossUnderTest, case: Case, tensors: dict[str, Any], replaced: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], Any]:
    """Construct the call of a case, as `Call.constructed` does."""
    return Call.of(under_test, case, replaced).constructed(tensors)


def invoke(under_test: LossUnderTest, case: Case, tensors: Mapping[str, Any]) -> Any:
    """Make the call of a case on other tensors than its own, such as traced ones."""
    given, call = dict(tensors), Call.of(under_test, case)
    return call.constructed(given)(call.handed(given))


def ready(
    under_test: LossUnderTest, case: Case, device: str = "cpu"
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Construct a case once, to be called any number of times on the same tensors.

    Returns:
        The call without arguments, and its tensors by name.
    """
    tensors, call = arguments(under_test, case, device), Call.of(under_test, case)
    made = call.constructed(tensors)
    inputs = {n: t for n, t in tensors.items() if isinstance(t, torch.Tensor)}

    def again() -> Any:
        with preserved():
            return made(call.handed(tensors))

    return again, inputs


def _move(module: torch.nn.Module, tensors: Mapping[str, Any]) -> None:
    """Move a module to the device of its tensors, since it is constructed on the host."""
    places = (tensor.device for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
    device = next(places, torch.device("cpu"))
    if device.type != "cpu":
        module.to(device)
