"""What is under test: the interface, and how a name on the command line becomes one."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lossspec.nearest import suggestion
from lossspec.oracle import check_examples
from lossspec.safe_text import foreign_error, one_line
from lossspec.spec import Loss, Surface, UnknownName, catalogue

ENTRY_POINTS = "lossspec.implementations"
#: How wrappers say that they do not take what they were passed; not that it is of a wrong type.
_UNKNOWN = re.compile(r"\b(unexpected|unknown) (keyword )?(argument|option|parameter)", re.I)


class ImplementationError(ValueError):
    """A name that does not lead to an implementation; the message says what was tried."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True, eq=False)
class Subject:
    """One loss of one implementation on one surface: what a campaign judges.

    target : the function, or the class. On the class surface everything but the tensors of the
    form goes to the constructor. found : where an import finds it, as `package.module:expression`
    or `path/to/file.py:expression`; empty when no import does. refused : keywords that one with
    **keywords turned out not to take.
    """

    implementation: str
    loss: Loss
    surface: Surface
    target: Callable[..., Any]
    found: str = ""
    refused: set[str] = field(default_factory=set)

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
            named = known & {*re.findall(r"unexpected keyword argument '(\w+)'", str(error))}
            if isinstance(error, TypeError) and _UNKNOWN.search(str(error)):
                named |= known - {"reduction"} & {*re.findall(r"\w+", str(error))}
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
    each function and class was, by its name.

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
        for loss in self.own:
            check_examples(loss)
        for loss in losses:
            wrong = unconstructed(loss, self.classes.get(loss.module or ""), "class")
            if wrong is not None:
                raise ImplementationError(f"{self.name}: {loss.module} {wrong}")

    def subjects(self, loss: Loss) -> Iterator[Subject]:
        """What it has of one loss: the function, the class, both or nothing."""
        if (name := loss.name) in self.functions:
            found = self.found.get(name, "")
            yield Subject(self.name, loss, "function", self.functions[name], found)
        if (module := loss.module) is not None and module in self.classes:
            found = self.found.get(module, "")
            yield Subject(self.name, loss, "class", self.classes[module], found)

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
        return cls(name, functions, classes, version, found=found)


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
    in_call = Subject("", loss, "function", target).keywords
    lost = sorted(taken - (known if in_call is None else in_call))
    module = surface == "class" and isinstance(target, torch.nn.Module)
    if not lost and not module:
        return None
    kind = type(target).__name__
    each = f", so that it can be constructed with each {', '.join(lost)}" if lost else ""
    return (
        f"is an instance of {kind}, not a class: pass the class, {kind} without parentheses{each}"
    )


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
def reference(loss: Loss, surface: Surface) -> Subject | None:
    """Torch's own function or class for a loss."""
    from lossspec.implementations import torch_nn

    torchs = torch_nn.functions if surface == "function" else torch_nn.classes
    return next(torchs.subjects(loss), None)


@cache
def composed(loss: Loss) -> Subject | None:
    """Torch's own function of a loss without a reduction, and a plain mean or sum behind it."""
    unreduced = reference(loss, "function")
    if unreduced is None or not unreduced.takes("reduction"):
        return None
    function = unreduced.target

    @wraps(function)
    def target(*tensors: torch.Tensor, reduction: str = "mean", **options: Any) -> Any:
        each = function(*tensors, reduction="none", **options)
        return each if reduction == "none" else getattr(each, reduction)()

    name = f"the plain mean or sum of {unreduced.implementation}'s unreduced loss"
    return replace(unreduced, implementation=name, target=target)


def load(name: str, losses: tuple[str, ...] = ()) -> Implementation:
    """Return the implementation of a name.

    The name is an entry point, `package.module`, `package.module:attribute`, `path/to/file.py` or
    `path/to/file.py:attribute`. A single function or class is judged as the loss that it is named
    after or, failing that, as the one in `losses` when there is just one. ImplementationError says
    what was tried.
    """
    entries = known()
    path, attribute, namespace = _module(name, entries)
    try:
        version = _version(path, namespace)
        namespace = _attribute(name, path, attribute, namespace)
        implementation = Implementation.of(name, namespace, version)
    except (ImplementationError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a lazy namespace may import when it is looked at
        raise ImplementationError(f"--impl {name}: {told(error)}") from error
    where = f"{path}:{attribute}" if attribute else path
    found = _places(implementation, namespace, where, f"{where}." if attribute else f"{path}:")
    if not found and callable(namespace):
        implementation = _single(name, attribute, namespace, losses, version)
        found = dict.fromkeys((*implementation.functions, *implementation.classes), where)
    if not found:
        raise ImplementationError(
            f"--impl {name}: nothing in it is named like a loss, such as cross_entropy or "
            "CrossEntropyLoss; wrap other names in lossspec.Implementation"
        )
    # By the name that was typed, so that a command with it finds the implementation again.
    return replace(
        implementation,
        name=name,
        version=implementation.version or version,
        target=where,
        found=found,
    )


def _module(name: str, entries: Mapping[str, EntryPoint]) -> tuple[str, str, ModuleType]:
    """Return the path, the attribute and the imported module that a name leads to."""
    from lossspec.implementations import files

    if name.endswith(":"):
        raise ImplementationError(f"--impl {name}: no attribute is named after the colon")
    if name not in entries and (parts := files.parts(name)):
        return *parts, files.loaded(name)
    path, _, attribute = (entries[name].value if name in entries else name).partition(":")
    return path, attribute, _import(name, path, entries)


def _places(
    implementation: Implementation, namespace: Any, where: str, holds: str
) -> dict[str, str]:
    """Return where an import finds each function and class, by its name."""
    if implementation is not namespace:
        return {n: holds + n for n in (*implementation.functions, *implementation.classes)}
    return {  # wrapped: what it holds may lie nowhere else
        **{n: f"{holds}functions[{n!r}]" for n in implementation.functions},
        **{n: f"{holds}classes[{n!r}]" for n in implementation.classes},
        **implementation.found,
    }


def _import(name: str, path: str, entries: Mapping[str, EntryPoint]) -> ModuleType:
    if not path or path.startswith(".") or "/" in path:
        raise ImplementationError(
            f"--impl {name}: {path!r} is not the full name of a module{_meant(name)}"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(path)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an exit or a skip in it must not pass for a run's
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if name in entries:
            where = _declared(entries[name])
        elif missing and f"{path}.".startswith(f"{missing}."):
            raise ImplementationError(
                f"--impl {name}: no entry point of that name and no module {missing!r} to import"
                f"{suggestion(name, sorted(entries), 'lossspec list implementations')}"
                f"{_meant(name)}"
            ) from None
        else:
            where = f"importing {path!r}"
        raise ImplementationError(f"--impl {name}: {where}: {told(error)}") from error


def _declared(entry: EntryPoint) -> str:
    """An entry point, and the distribution that declares it."""
    by = f" of {entry.dist.name}" if entry.dist else ""
    return f"its entry point{by}, {entry.value!r}, cannot be imported"


def _meant(name: str) -> str:
    """What a path, or a dot or two colons before an attribute, may stand for."""
    from lossspec.implementations import files

    path, _, attribute = name.partition(":")
    if beside := files.beside(path, attribute):
        return beside
    meant = re.sub(r"^(\.?/)+|\.py\b", "", name).replace("::", ":").replace("/", ".")
    module, _, attribute = name.rpartition(".")
    if meant == name and module in sys.modules:
        meant = f"{module}:{attribute}"
    if meant != name:
        return f"; try {meant}"
    return suggestion(path, [*known(), *files.stems()])


def _attribute(name: str, path: str, attribute: str, namespace: Any) -> Any:
    for part in attribute.split(".") if attribute else ():
        try:
            namespace = getattr(namespace, part)
        except AttributeError:
            public = [word for word in dir(namespace) if not word.startswith("_")]
            has = _meant(name) if part.startswith(":") else suggestion(part, public)
            raise ImplementationError(
                f"--impl {name}: {path!r} has no attribute {part!r}{has}"
            ) from None
    return namespace


def told(error: BaseException, file: tuple[str, str] = ("", "")) -> str:
    """Return an error in a line, with its place unless that is the import itself.

    file : a file's own path, and how it was typed; a line in it is the place if there is one.
    """
    own = (__file__, f"{Path(__file__).parent}/files.py", importlib.__file__)
    places = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in own and not frame.filename.startswith("<frozen")
    ]
    if isinstance(error, SyntaxError) and error.filename:
        places = [(error.filename, error.lineno)]
        error = SyntaxError(error.msg)  # its own text would name the place again
    places = [(file[1], line) for at, line in places if at == file[0]] or places
    place = "".join(f" ({at}, line {line})" for at, line in places[-1:])
    return f"{foreign_error(error)}{place}"


def _single(
    name: str,
    attribute: str,
    target: Callable[..., Any],
    losses: tuple[str, ...],
    version: str | None,
) -> Implementation:
    own = getattr(target, "__name__", "")
    loss = _named(own)
    if own in ("", "<lambda>"):  # a partial and a lambda have no other name than their attribute's
        own = attribute.rpartition(".")[2]
        loss = None if isinstance(target, torch.nn.Module) else _named(own)
    if loss is None and len(losses) == 1:
        loss = _named(losses[0])
    elif loss is not None and losses and not {loss.name, loss.module} & set(losses):
        raise ImplementationError(
            f"--impl {name}: its name makes it {loss.name}, which "
            f"--loss={','.join(losses)} does not select"
        )
    for meant in (loss, _named(type(target).__name__)):
        if meant is not None and (wrong := unconstructed(meant, target, "function")) is not None:
            raise ImplementationError(f"--impl {name}: it {wrong}")
    if loss is not None and not inspect.isclass(target):
        return Implementation(name, functions={loss.name: target}, version=version)
    if loss is not None and loss.module is not None:
        return Implementation(name, classes={loss.module: target}, version=version)
    raise ImplementationError(
        f"--impl {name}: {own or 'it'} is not named like a loss; say which one it is with "
        f"--loss=NAME{suggestion(own, list(catalogue()), 'lossspec list losses')}"
    )


def _named(name: str) -> Loss | None:
    return next((o for o in catalogue().values() if name in (o.name, o.module)), None)


def _version(path: str, module: ModuleType) -> str | None:
    package = module if path.endswith(".py") else sys.modules.get(path.partition(".")[0])
    version = getattr(package, "__version__", None)
    return str(version) if version is not None else None
