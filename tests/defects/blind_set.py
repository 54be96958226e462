"""The blind set: losses that were written by somebody who had not seen the suite.

The files in `tests/defects/blind/` are kept as they were written. They are named like the losses.
A function or class named `wrong...` has one defect, which its docstring describes, and a function
`witness_<name>` that returns True if the defect shows. One named `right...` has none.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lossspec.audit import Defect, RightImplementation

FOLDER = Path(__file__).parent / "blind"


@dataclass(frozen=True, eq=False)
class BlindDefect(Defect):
    """A wrong loss of the blind set.

    Attributes:
        witness: A function that returns True if the defect shows.
    """

    witness: Callable[[], bool] | None = None


def losses() -> list[str]:
    """Return the names of the losses that the blind set has files for."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def blind_defects(loss: str) -> list[BlindDefect]:
    """Return the wrong losses of the blind set for a loss."""
    module = _module(loss)
    return [
        BlindDefect(
            name,
            loss,
            _given(thing),
            _sentence(thing),
            "class" if isinstance(thing, type) else "function",
            witness=vars(module).get(f"witness_{name}"),
        )
        for name, thing in _named(module, "wrong")
    ]


def blind_right(loss: str) -> list[RightImplementation]:
    """Return the right losses of the blind set for a loss."""
    return [
        RightImplementation(
            name,
            loss,
            _given(thing),
            _sentence(thing),
            "class" if isinstance(thing, type) else "function",
        )
        for name, thing in _named(_module(loss), "right")
    ]


@cache
def _module(loss: str) -> ModuleType:
    name = f"{__name__}.{loss}"
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{loss}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _named(module: ModuleType, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the losses of a file whose names begin with a word."""
    for name, thing in list(vars(module).items()):
        own = getattr(thing, "__module__", None) == module.__name__
        if own and callable(thing) and name.lower().startswith(kind):
            yield name, thing


def _given(thing: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    return lambda: thing


def _sentence(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())
