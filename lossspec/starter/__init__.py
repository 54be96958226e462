"""The file that `lossspec new` writes: a spec and an implementation, which conforms."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from lossspec.errors import ArgumentError
from lossspec.report.files import replace_file
from lossspec.spec.catalogue import catalogue
from lossspec.spec.loss import names_of

#: The file that is copied, with the name of the loss in place of its own.
TEMPLATE = Path(__file__).with_name("my_loss.py")


def write(name: str, folder: Path, *, force: bool = False) -> Path:
    """Write the first version of a spec, with an implementation that conforms to it.

    Args:
        name: The name of the loss, and of the file without `.py`.
        folder: The folder of the file.
        force: Whether an existing file is overwritten.

    Returns:
        The path of the file.

    Raises:
        ArgumentError: The name cannot be that of a new loss, or the file exists.
    """
    check_name(name)
    path = folder / f"{name}.py"
    if path.exists() and not force:
        raise ArgumentError(
            f"{path.name} exists; choose another name, or overwrite the file with --force"
        )
    replace_file(path, re.sub(rf"\b{TEMPLATE.stem}\b", name, TEMPLATE.read_text("utf-8")))
    return path


def check_name(name: str) -> None:
    """Raise ArgumentError for a name that a new loss cannot have."""
    problem = _problem(name)
    if problem:
        raise ArgumentError(
            f"{name!r} {problem}; choose the name of a Python function that is not taken, such as "
            f"{TEMPLATE.stem}"
        )


def _problem(name: str) -> str:
    """Return why a new loss cannot have a name; empty if it can."""
    if not (name.isidentifier() and name.isascii()):
        return "is no Python identifier of ASCII letters, digits and underscores"
    if keyword.iskeyword(name) or hasattr(builtins, name):
        return "is a word of Python"
    if name in names_of(catalogue().values()):
        return "is the name of a loss that has a spec already (`lossspec list losses`)"
    if name in _words():
        return "is a word of the file that is written"
    if name in sys.stdlib_module_names or _installed(name):
        return "is the name of an installed module, which a file of that name would hide"
    return ""


def _words() -> set[str]:
    """Return the names that the template defines, imports or uses."""
    found = {"lossspec", "torch"}
    for node in ast.walk(ast.parse(TEMPLATE.read_text("utf-8"))):
        match node:
            case ast.Name(id=word) | ast.arg(arg=word) | ast.FunctionDef(name=word):
                found.add(word)
            case ast.alias(name=word):
                found.add(word)
    return found - {TEMPLATE.stem}


def _installed(name: str) -> bool:
    """Return whether a module of that name is found outside of the current directory."""
    here = Path.cwd()
    folders = [folder for folder in sys.path if folder and Path(folder).resolve() != here]
    return PathFinder.find_spec(name, folders) is not None
