"""What is under test: the interface, and how a name on the command line becomes an implementation."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from lossspec.spec import Loss, Surface, UnknownName, catalogue

ENTRY_POINTS = "lossspec.implementations"


class ImplementationError(ValueError):
    """A name that does not lead to an implementation; the message says what was tried."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One loss of one implementation on one surface: what a campaign judges.

    target : the function, or the class. On the class surface everything but the tensors of the
    form goes to the constructor.
    """

    implementation: str
    loss: Loss
    surface: Surface
    target: Callable[..., Any]

    @cached_property
    def keywords(self) -> frozenset[str] | None:
        """Names of the arguments it takes by keyword; None when it takes any."""
        # An instance of nn.Module takes anything by keyword and passes it to its forward.
        target = (
            self.target
            if inspect.isclass(self.target)
            else (getattr(self.target, "forward", self.target))
        )
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):
            return None
        parameters = signature.parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        return frozenset(
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )

    def takes(self, name: str) -> bool:
        """Whether it has an argument of that name."""
        return self.keywords is None or name in self.keywords

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
    A parameter that a signature lacks is unsupported, which is not a failure. own : specs beyond the
    catalogue, of losses that it brings along.

    >>> Implementation("mine", functions={"mse_loss": lambda input, target: ...})
    """

    name: str
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    classes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    version: str | None = None
    own: tuple[Loss, ...] = ()

    def __post_init__(self) -> None:
        losses = (*catalogue().values(), *self.own)
        names = [loss.name for loss in losses]
        modules = [loss.module for loss in losses if loss.module]
        for given in self.functions:
            if given not in names:
                raise UnknownName("loss function", given, names)
        for given in self.classes:
            if given not in modules:
                raise UnknownName("loss class", given, modules)

    def subjects(self, loss: Loss) -> Iterator[Subject]:
        """What it has of one loss: the function, the class, both or nothing."""
        if loss.name in self.functions:
            yield Subject(self.name, loss, "function", self.functions[loss.name])
        if loss.module in self.classes:
            yield Subject(self.name, loss, "class", self.classes[loss.module])

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
        return cls(name, functions, classes, version)


#: What lossspec ships, so that a checkout that is not installed has it too.
SHIPPED = (
    EntryPoint("torch.nn", "lossspec.implementations.torch_nn:classes", ENTRY_POINTS),
    EntryPoint("torch.nn.functional", "lossspec.implementations.torch_nn:functions", ENTRY_POINTS),
    EntryPoint("oracle", "lossspec.implementations.oracle:oracle", ENTRY_POINTS),
)


def known() -> dict[str, EntryPoint]:
    """The entry points of group `lossspec.implementations`, by name, not yet loaded."""
    return {entry.name: entry for entry in (*SHIPPED, *entry_points(group=ENTRY_POINTS))}


@cache
def reference(loss: Loss) -> Subject | None:
    """Torch's own function for a loss, or its class where it has no function."""
    from lossspec.implementations import torch_nn

    subjects = [*torch_nn.functions.subjects(loss), *torch_nn.classes.subjects(loss)]
    return subjects[0] if subjects else None


def load(name: str, losses: tuple[str, ...] = ()) -> Implementation:
    """The implementation of a name: an entry point, `package.module` or `package.module:attribute`.

    A single function or class is judged as the loss that it is named after or, failing that, as
    the one in `losses` when there is just one. ImplementationError says what was tried.
    """
    entries = known()
    if name in entries:
        return Implementation.of(name, entries[name].load(), _version(entries[name].value))
    path, _, attribute = name.partition(":")
    namespace: Any = _import(name, path, list(entries))
    for part in attribute.split(".") if attribute else ():
        if not hasattr(namespace, part):
            public = [word for word in dir(namespace) if not word.startswith("_")]
            raise ImplementationError(
                f"--impl {name}: {path!r} has no attribute {part!r}; it has: "
                f"{', '.join(public[:30]) or 'nothing public'}"
            )
        namespace = getattr(namespace, part)
    implementation = Implementation.of(name, namespace, _version(path))
    if not implementation.functions and not implementation.classes and callable(namespace):
        implementation = _single(name, namespace, losses, _version(path))
    if not implementation.functions and not implementation.classes:
        raise ImplementationError(
            f"--impl {name}: nothing in it is named like a loss, such as cross_entropy or "
            "CrossEntropyLoss; wrap other names in lossspec.Implementation"
        )
    return implementation


def _import(name: str, path: str, entries: list[str]) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(path)
    except ImportError as error:
        # Only a wrong name is the user's; an import that fails inside the module is shown whole.
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and (path == error.name or path.startswith(f"{error.name}."))
        ):
            raise ImplementationError(
                f"--impl {name}: no entry point of that name (known: "
                f"{', '.join(sorted(entries))}) and no module {error.name!r} to import"
            ) from None
        raise ImplementationError(f"--impl {name}: importing {path!r} failed: {error}") from error
    except (ValueError, TypeError) as error:
        raise ImplementationError(f"--impl {name}: not a module name: {error}") from None


def _single(
    name: str, target: Callable[..., Any], losses: tuple[str, ...], version: str | None
) -> Implementation:
    own = getattr(target, "__name__", "")
    for loss in catalogue().values():
        if own in (loss.name, loss.module) or losses == (loss.name,):
            if inspect.isclass(target):
                return Implementation(name, classes={str(loss.module): target}, version=version)
            return Implementation(name, functions={loss.name: target}, version=version)
    raise ImplementationError(
        f"--impl {name}: {own or 'it'} is not named like a loss; say which one it is with one "
        f"--loss of: {', '.join(catalogue())}"
    )


def _version(target: str) -> str | None:
    package = sys.modules.get(target.partition(":")[0].partition(".")[0])
    version = getattr(package, "__version__", None)
    return str(version) if version is not None else None
