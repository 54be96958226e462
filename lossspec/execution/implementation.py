"""The implementation under test, and the loss of it that is judged."""

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
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface


#: How wrappers say that they do not take what they were passed; not that it is of a wrong type.
@dataclass(frozen=True, eq=False)
class LossUnderTest:
    """One loss of one implementation on one surface: what a campaign judges.

    target : the function, or the class. On the class surface everything but the tensors of the
    form goes to the constructor. found : where an import finds it, as `package.module:expression`
    or `path/to/file.py:expression`; empty when no import does. refused : keywords that one with
    **keywords turned out not to take. abilities : what is declared of it; an ability that is not
    there is inferred. conventions : declared values of parameters that its signature lacks. shown :
    abilities that some call has shown already, which need not be tried again.
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
        """Whether it declares an ability, and so must have it."""
        return self.abilities.get(ability, False)

    def lacked(self, name: str) -> Any:
        """The value of a parameter where its signature lacks it."""
        return self.conventions.get(name, self.loss.parameters[name].default)

    @cached_property
    def keywords(self) -> frozenset[str] | None:
        """Names of the arguments it takes by keyword; None when it takes any."""
        # An instance of nn.Module takes anything by keyword and passes it to its forward.
        target = (
            self.target
            if inspect.isclass(self.target)
            else (getattr(self.target, "forward", self.target))
        )
        if getattr(target, "__init__", None) is torch.nn.Module.__init__:
            return frozenset()  # its (*args, **kwargs) take nothing
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):
            return None
        parameters = list(signature.parameters.values())
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        if self.surface == "function":
            # The first ones are the tensors, also one that is named as an option is: `log_input`.
            tensors = min(len(form.tensors) for form in self.loss.forms)
            parameters = [
                p for i, p in enumerate(parameters) if i >= tensors or p.kind is p.KEYWORD_ONLY
            ]
        return frozenset(
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )

    def takes(self, name: str) -> bool:
        """Whether it has an argument of that name."""
        if self.surface == "class" and name == "reduction" and self.loss.results:
            return False  # it returns them all
        return name not in self.refused if self.keywords is None else name in self.keywords

    def refuses(self, error: BaseException | None) -> bool:
        """Whether a call failed because of a keyword that the target does not take; it is noted.

        No signature tells of it where keywords are handed on, or where torch has scripted the
        target.
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
        """The callable that takes the form's tensors: the module, or the function with keywords."""
        if self.surface == "class":
            module: Callable[..., Any] = self.target(**keywords)
            return module
        target = self.target
        return lambda *tensors: target(*tensors, **keywords)


@dataclass(frozen=True)
class Implementation:
    """A set of losses to judge.

    functions : by name as in `torch.nn.functional`, called as those are. classes : by name as in
    `torch.nn`. Wrap anything with other names or conventions in a function of torch's signature.
    A parameter that a signature lacks is unsupported, which is not a failure. own : specs beyond
    the catalogue, of losses that it brings along. target : where it was loaded from. found : where
    each function and class was, by its name. reference : whether it is torch itself, from which
    other implementations may inherit a deviation. supports, differentiable, compiles, conventions :
    what it declares, see `Declaration`; what it declares and does not do is a deviation.

    UnknownName lists the known names; SpecError where an own spec contradicts its examples.

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
        """What it declares."""
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
        """What it has of one loss: the function, the class, both or nothing."""
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
        """The same implementation with another declaration."""
        return replace(
            self,
            supports=declaration.supports,
            differentiable=declaration.differentiable,
            compiles=declaration.compiles,
            conventions=declaration.conventions,
        )

    @classmethod
    def of(cls, name: str, namespace: Any, version: str | None = None) -> Implementation:
        """The losses that a module, class instance or other namespace has under torch's names."""
        if isinstance(namespace, Implementation):
            return namespace
        functions: dict[str, Callable[..., Any]] = {}
        classes: dict[str, Callable[..., Any]] = {}
        for loss in catalogue().values():
            function = getattr(namespace, loss.name, None)
            if callable(function) and not isinstance(function, ModuleType):
                functions[loss.name] = function
            module = getattr(namespace, loss.module, None) if loss.module else None
            if callable(module):
                classes[str(loss.module)] = module
        found = {}
        if isinstance(namespace, ModuleType):
            found = {word: f"{namespace.__name__}:{word}" for word in (*functions, *classes)}
        implementation = cls(name, functions, classes, version, found=found)
        declaration = declared_by(name, namespace)
        return implementation if declaration is None else implementation.declaring(declaration)


def declared_by(name: str, namespace: Any) -> Declaration | None:
    """Return the declaration that a namespace carries, if any.

    ImplementationError says what else stands under its attribute.
    """
    declaration = getattr(namespace, ATTRIBUTE, None)
    if declaration is None or isinstance(declaration, Declaration):
        return declaration
    raise ImplementationError(
        f"{name}: {ATTRIBUTE} must be a lossspec.Declaration, got {declaration!r}"
    )


def unconstructed(loss: Loss, target: Any, surface: Surface) -> str | None:
    """Say that a target is an instance, if it is one and its class is what should be judged.

    An instance has its arguments already: no call of it can pass a reduction, say. What takes all
    of them in its call may stand for a function, but not for a class.
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
    each = f", so that it can be constructed with each {', '.join(lost)}" if lost else ""
    return (
        f"is an instance of {kind}, not a class: pass the class, {kind} without parentheses{each}"
    )
