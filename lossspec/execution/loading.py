"""Load the implementation of a name."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lossspec.errors import ImplementationError, SpecError
from lossspec.execution.implementation import Implementation, declared_by, unconstructed
from lossspec.nearest import suggestion
from lossspec.oracle.examples import check_drawn
from lossspec.safe_text import foreign_error
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import Loss

ENTRY_POINTS = "lossspec.implementations"


#: The implementations that lossspec ships; listed here for a checkout that is not installed.
SHIPPED = (
    EntryPoint("torch.nn", "lossspec.implementations.torch_nn:classes", ENTRY_POINTS),
    EntryPoint("torch.nn.functional", "lossspec.implementations.torch_nn:functions", ENTRY_POINTS),
    EntryPoint("oracle", "lossspec.implementations.oracle:oracle", ENTRY_POINTS),
)


def known() -> dict[str, EntryPoint]:
    """Return the entry points of group `lossspec.implementations` by name, not yet loaded."""
    return {entry.name: entry for entry in (*SHIPPED, *entry_points(group=ENTRY_POINTS))}


def load(name: str, losses: tuple[str, ...] = ()) -> Implementation:
    """Return the implementation of a name.

    A single function or class is judged as the loss of the same name. If no loss has its name, it
    is judged as the only one in `losses`. A namespace declares its abilities in its attribute
    `__lossspec__`; without this attribute, that of its module is used.

    Args:
        name: An entry point, `package.module`, `package.module:attribute`, `path/to/file.py` or
            `path/to/file.py:attribute`.
        losses: The losses that the user has selected.

    Raises:
        ImplementationError: No implementation was found, or its own spec has a mistake; the message
            says what was tried, or names the mistake.
    """
    entries = known()
    path, attribute, module = _module(name, entries)
    try:
        version = _version(path, module)
        namespace = _attribute(name, path, attribute, module)
        declaration = declared_by(name, namespace) or declared_by(name, module)
        implementation = Implementation.of(name, namespace, version)
        for loss in implementation.own:
            check_drawn(loss)
    except (ImplementationError, KeyboardInterrupt):
        raise
    except BaseException as error:  # reading an attribute of a lazy namespace may run an import
        raise ImplementationError(f"--impl {name}: {told(error)}") from error
    where = f"{path}:{attribute}" if attribute else path
    found = _places(implementation, namespace, f"{where}." if attribute else f"{path}:")
    if not found and callable(namespace):
        implementation = _single(name, attribute, namespace, losses, version)
        found = dict.fromkeys((*implementation.functions, *implementation.classes), where)
    if not found:
        specs = [f"{loss.name}, of its spec" for loss in implementation.own]
        such = " or ".join(specs or ["cross_entropy", "CrossEntropyLoss"])
        raise ImplementationError(
            f"--impl {name}: nothing in it is named like a loss, such as {such}; wrap other names "
            "in lossspec.Implementation"
        )
    if declaration is not None and implementation is not namespace:
        implementation = implementation.declaring(declaration)
    # Keep the typed name, so that the commands in a report find the implementation again.
    return replace(
        implementation,
        name=name,
        version=implementation.version or version,
        target=where,
        found=found,
    )


def _module(name: str, entries: Mapping[str, EntryPoint]) -> tuple[str, str, ModuleType]:
    """Return the path, the attribute and the imported module that a name leads to."""
    from lossspec.execution import files

    if name.endswith(":"):
        raise ImplementationError(
            f"--impl {name}: no attribute follows the colon; name one or remove the colon"
        )
    if name not in entries and (parts := files.parts(name)):
        return *parts, files.loaded(name)
    path, _, attribute = (entries[name].value if name in entries else name).partition(":")
    return path, attribute, _import(name, path, entries)


def _places(implementation: Implementation, namespace: Any, holds: str) -> dict[str, str]:
    """Return the place to import each function and class from, by its name."""
    if implementation is not namespace:
        return {n: holds + n for n in (*implementation.functions, *implementation.classes)}
    return {  # a function in an Implementation may not be an attribute of any module
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
    except BaseException as error:  # a SystemExit or pytest skip in it must not end the run
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
    """Say that an entry point cannot be imported, and which distribution declares it."""
    by = f" of {entry.dist.name}" if entry.dist else ""
    return f"its entry point{by}, {entry.value!r}, cannot be imported"


def _meant(name: str) -> str:
    """Suggest a name for one with slashes, or with a dot or two colons before the attribute."""
    from lossspec.execution import files

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
    """Return an error on one line, with the place that raised it unless that is the import itself.

    Args:
        error: The error of an import.
        file: The path of the imported file, and the path as the user typed it. The last line of
            this file in the traceback is the place, if there is one.
    """
    own = (__file__, f"{Path(__file__).parent}/files.py", importlib.__file__)
    places = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in own and not frame.filename.startswith("<frozen")
    ]
    if isinstance(error, SpecError):  # our own message, and its place in the imported file only
        line = next((line for at, line in reversed(places) if at == file[0]), None)
        return f"{error} ({file[1]}, line {line})" if line else str(error)
    if isinstance(error, SyntaxError) and error.filename:
        places = [(error.filename, error.lineno)]
        error = SyntaxError(error.msg)  # str(error) would name the place a second time
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
    if own in ("", "<lambda>"):  # a partial or a lambda has no name but that of its attribute
        own = attribute.rpartition(".")[2]
        loss = None if isinstance(target, torch.nn.Module) else _named(own)
    if loss is None and len(losses) == 1:
        loss = _named(losses[0])
    elif loss is not None and losses and not {loss.name, loss.module} & set(losses):
        raise ImplementationError(
            f"--impl {name}: by its name it is judged as {loss.name}, which "
            f"--loss={','.join(losses)} does not select; select {loss.name} or rename it"
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
