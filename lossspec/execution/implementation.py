"""The implementation under test and each of its losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import torch

from lossspec.errors import ImplementationError, UnknownName
from lossspec.execution.declaration import ATTRIBUTE, Ability, Declaration, Supports
from lossspec.execution.messages import unknown_keywords
from lossspec.oracle.examples import check_examples
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss, names_of
from lossspec.spec.roles import Surface


@dataclass(frozen=True, eq=False)
class LossUnderTest:
    """One loss of one implementation on one surface, as a campaign judges it.

    On the class surface, all arguments but the tensors of the form are passed to the constructor.

    Attributes:
        implementation: The name of the implementation.
        loss: The spec of the loss.
        surface: "function" or "class".
        target: The function or the class.
        found: The place to import it from, as `package.module:expression` or
            `path/to/file.py:expression`; empty if it cannot be imported.
        refused: The keywords that a target with **keywords has refused in a call.
        abilities: Whether it has each declared ability; other abilities are inferred.
        conventions: The declared values of parameters that its signature lacks.
        shown: The abilities that a call has already proved, which need no further trial.
    """

    implementation: str
    loss: Loss
    surface: Surface
    target: Callable[..., Any]
    found: str = ""
    refused: set[str] = field(default_factory=set)
    abilities: Mapping[Ability, bool] = field(default_factory=dict)
    conventions: Mapping[str, Any] = field(default_factory=dict)
    shown: set[Ability] = field(default_factory=set)

    def declares(self, ability: Ability) -> bool:
        """Return whether it declares an ability, and so must have it."""
        return self.abilities.get(ability, False)

    def lacked(self, name: str) -> Any:
        """Return the value that a parameter has if the signature lacks it."""
        return self.conventions.get(name, self.loss.parameters[name].default)

    @cached_property
    def keywords(self) -> frozenset[str] | None:
        """The names of the arguments that it takes by keyword; None if it takes any."""
        # The signature of an nn.Module instance is (*args, **kwargs); that of forward is not.
        target = (
            self.target
            if inspect.isclass(self.target)
            else (getattr(self.target, "forward", self.target))
        )
        if getattr(target, "__init__", None) is torch.nn.Module.__init__:
            return frozenset()  # the constructor's (*args, **kwargs) refuse every argument
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):
            return None
        parameters = list(signature.parameters.values())
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        if self.surface == "function":
            # The first parameters are tensors, even if one has the name of an option (`log_input`).
            tensors = min(len(form.tensors) for form in self.loss.forms)
            parameters = [
                p for i, p in enumerate(parameters) if i >= tensors or p.kind is p.KEYWORD_ONLY
            ]
        return frozenset(
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )

    def takes(self, name: str) -> bool:
        """Return whether it takes an argument of that name."""
        if name == "reduction" and self.loss.returns_every_reduction(self.surface):
            return False  # the returned object holds the result of every reduction
        return name not in self.refused if self.keywords is None else name in self.keywords

    def refuses(self, error: BaseException | None) -> bool:
        """Return whether a call failed because the target refuses a keyword, and record that.

        The signature does not show this if the target passes its keywords on, or if it is
        scripted by torch.
        """
        if self.keywords is not None or not isinstance(error, TypeError | RuntimeError):
            return False
        known = {*self.loss.options, *self.loss.parameters, "reduction"} - self.refused
        schema = getattr(getattr(self.target, "forward", self.target), "schema", None)
        if schema is not None:
            named = known - {argument.name for argument in schema.arguments}
        else:
            named = unknown_keywords(error, known)
        self.refused.update(named)
        return bool(named)

    def construct(self, keywords: Mapping[str, Any]) -> Callable[..., Any]:
        """Return the callable of the form's tensors: the module, or the function with keywords."""
        if self.surface == "class":
            module: Callable[..., Any] = self.target(**keywords)
            return module
        target = self.target
        return lambda *tensors: target(*tensors, **keywords)


@dataclass(frozen=True)
class Implementation:
    """A set of losses to judge.

    Wrap losses with other names or conventions in functions of torch's signatures. A parameter
    that a signature lacks is reported as unsupported, which is not a failure.

    Attributes:
        name: The name in reports.
        functions: Functions by their names in `torch.nn.functional`, with the same signatures.
        classes: Classes by their names in `torch.nn`.
        version: The version in reports.
        own: Specs of further losses that the implementation has, beyond the catalogue.
        target: The place that it was loaded from.
        found: The place of each function and class, by its name.
        reference: Whether it is torch itself, whose deviations other implementations may inherit.
        supports: The abilities that it declares, as in `Declaration`.
        differentiable: As in `Declaration`.
        compiles: As in `Declaration`.
        conventions: As in `Declaration`.

    Raises:
        UnknownName: A function or class has the name of no loss; the message lists known names.
        SpecError: An own spec contradicts its examples.
        ImplementationError: A class is given as an instance.

    Example:
        >>> Implementation("mine", functions={"mse_loss": lambda input, target: ...})
    """

    name: str
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    classes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    version: str | None = None
    own: tuple[Loss, ...] = ()
    target: str = ""
    found: Mapping[str, str] = field(default_factory=dict)
    reference: bool = False
    supports: Supports = ()
    differentiable: bool | Literal["twice"] | None = None
    compiles: bool | None = None
    conventions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def declaration(self) -> Declaration:
        """The declared abilities and conventions."""
        return Declaration(self.supports, self.differentiable, self.compiles, self.conventions)

    def __post_init__(self) -> None:
        losses = (*catalogue().values(), *self.own)
        self.declaration.check(losses)
        names = [loss.name for loss in losses]
        modules = [loss.module for loss in losses if loss.module]
        for given in self.functions:
            if given not in names:
                raise UnknownName("loss function", given, names)
        for given in self.classes:
            if given not in modules:
                raise UnknownName("loss class", given, modules)
        for loss in self.own:
            check_examples(loss)
        for loss in losses:
            wrong = unconstructed(loss, self.classes.get(loss.module or ""), "class")
            if wrong is not None:
                raise ImplementationError(f"{self.name}: {loss.module} {wrong}")

    def losses_under_test(self, loss: Loss) -> Iterator[LossUnderTest]:
        """Yield the function and the class of one loss, if the implementation has them."""
        held: tuple[tuple[Surface, str | None, Mapping[str, Callable[..., Any]]], ...] = (
            ("function", loss.name, self.functions),
            ("class", loss.module, self.classes),
        )
        for surface, name, targets in held:
            if name is not None and name in targets:
                yield LossUnderTest(
                    self.name,
                    loss,
                    surface,
                    targets[name],
                    self.found.get(name, ""),
                    abilities=self.declaration.abilities(loss),
                    conventions=self.declaration.convention(loss),
                )

    def declaring(self, declaration: Declaration) -> Implementation:
        """Return the same implementation with another declaration."""
        return replace(
            self,
            supports=declaration.supports,
            differentiable=declaration.differentiable,
            compiles=declaration.compiles,
            conventions=declaration.conventions,
        )

    @classmethod
    def of(cls, name: str, namespace: Any, version: str | None = None) -> Implementation:
        """Collect the losses that a namespace holds under torch's names.

        The losses of specs in a module, which are not in the catalogue, are collected too.

        Args:
            name: The name in reports.
            namespace: A module, an instance of a class or another object with attributes. An
                `Implementation` is returned unchanged.
            version: The version in reports.

        Raises:
            ImplementationError: The attribute `__lossspec__` is not a `Declaration`, or a spec in
                the module has the name of another spec.
            SpecError: A spec in the module contradicts its examples.
        """
        if isinstance(namespace, Implementation):
            return namespace
        functions: dict[str, Callable[..., Any]] = {}
        classes: dict[str, Callable[..., Any]] = {}
        own = specs_in(name, namespace)
        for loss in (*catalogue().values(), *own):
            function = getattr(namespace, loss.name, None)
            if callable(function) and not isinstance(function, ModuleType):
                functions[loss.name] = function
            module = getattr(namespace, loss.module, None) if loss.module else None
            if callable(module):
                classes[str(loss.module)] = module
        found = {}
        if isinstance(namespace, ModuleType):
            found = {word: f"{namespace.__name__}:{word}" for word in (*functions, *classes)}
        implementation = cls(name, functions, classes, version, own, found=found)
        declaration = declared_by(name, namespace)
        return implementation if declaration is None else implementation.declaring(declaration)


def specs_in(name: str, namespace: Any) -> tuple[Loss, ...]:
    """Return the specs that a module holds and that are not in the catalogue.

    Args:
        name: The name of the implementation, for the message.
        namespace: The module; any other object holds no specs.

    Raises:
        ImplementationError: Another spec has the name of one of them.
    """
    if not isinstance(namespace, ModuleType):
        return ()
    known = catalogue()
    held = {id(x): x for x in vars(namespace).values() if isinstance(x, Loss)}
    own = tuple(loss for loss in held.values() if known.get(loss.name) is not loss)
    names = [word for loss in own for word in (loss.name, loss.module) if word]
    taken = names_of(known.values())
    for word in names:
        if word in taken or names.count(word) > 1:
            raise ImplementationError(
                f"{name}: its spec {word!r} has the name of another spec; rename one of them"
            )
    return own


def declared_by(name: str, namespace: Any) -> Declaration | None:
    """Return the declaration in the attribute `__lossspec__` of a namespace, if it has one.

    Args:
        name: The name of the implementation, for the message.
        namespace: A module or another object with attributes.

    Raises:
        ImplementationError: The attribute is not a `Declaration`.
    """
    declaration = getattr(namespace, ATTRIBUTE, None)
    if declaration is None or isinstance(declaration, Declaration):
        return declaration
    raise ImplementationError(
        f"{name}: {ATTRIBUTE} must be a lossspec.Declaration, got {declaration!r}"
    )


def unconstructed(loss: Loss, target: Any, surface: Surface) -> str | None:
    """Say that a target is an instance although its class is needed; None if the target is usable.

    The arguments of an instance are fixed: its call cannot set the reduction, for example. An
    instance whose call takes all arguments can serve as a function, but not as a class.

    Args:
        loss: The spec of the loss.
        target: The object that was given for the function or the class.
        surface: The surface that it was given for.
    """
    if target is None or inspect.isclass(target) or inspect.isroutine(target):
        return None
    known = {*loss.options, *loss.parameters, "reduction"}
    try:
        taken = known & set(inspect.signature(type(target)).parameters)
    except (TypeError, ValueError):
        taken = set()
    in_call = LossUnderTest("", loss, "function", target).keywords
    lost = sorted(taken - (known if in_call is None else in_call))
    module = surface == "class" and isinstance(target, torch.nn.Module)
    if not lost and not module:
        return None
    kind = type(target).__name__
    each = f", so that each case can set {', '.join(lost)}" if lost else ""
    return (
        f"is an instance of {kind}, not a class: pass the class, {kind} without parentheses{each}"
    )
