"""The catalogue: every wrong and every right implementation, by loss and name."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from lossspec.audit import Defect, RightImplementation
from lossspec.baselines import textbook
from lossspec.spec.catalogue import catalogue
from lossspec.spec.roles import Surface

#: An entry of the bug catalogue, where there is one, and the thread that reports the bug.
SOURCE = re.compile(r"(?:(?P<bug>[A-Z]{3}-\d\d), )?(?P<issue>[\w.-]+/[\w.-]+#\d+)")


class Baseline(RightImplementation):
    """The textbook composition that timing compares with; calls that must be refused it takes."""


@dataclass(frozen=True, eq=False)
class RecreatedBug(Defect):
    """A wrong implementation that re-creates a bug that a library had.

    needs : what a case must have to show it. witness : given the implementation, a result in which
    it differs from a right one, where no case of the suite can be one.
    """

    needs: str = ""
    witness: Callable[[Callable[..., Any]], Any] | None = None

    def __post_init__(self) -> None:
        if not SOURCE.fullmatch(self.source):
            raise ValueError(f"{self.id}: source is {self.source!r}, want 'VAL-01, owner/name#1'")

    @property
    def bug(self) -> str:
        """The entry of the bug catalogue; empty where it has none."""
        return self._source("bug")

    @property
    def issue(self) -> str:
        """The thread that reports the bug."""
        return self._source("issue")

    def _source(self, part: str) -> str:
        found = SOURCE.fullmatch(self.source)
        return (found and found[part]) or ""


def wrong(
    of: str | type,
    what: str | Callable[..., Any],
    says: str = "",
    *,
    source: str,
    needs: str = "",
    awaits: str = "",
    surface: Surface = "function",
    witness: Callable[[Callable[..., Any]], Any] | None = None,
    **parts: Any,
) -> RecreatedBug:
    """Return a row of a table of wrong implementations.

    of : the right class, one of whose parts is replaced, or the name of the loss. what : a name,
    beside which `says` tells what is wrong and `parts` are the methods that take the place of the
    right one's; or a class (or function), whose name and docstring say the same.
    """
    name, loss, sentence, make = _row(of, what, says, surface, parts)
    return RecreatedBug(name, loss, make, sentence, surface, source, awaits, needs, witness)


def right(
    of: str | type,
    what: str | Callable[..., Any],
    how: str = "",
    *,
    surface: Surface = "function",
    **parts: Any,
) -> RightImplementation:
    """Return a row of a table of right implementations; see `wrong`."""
    name, loss, sentence, make = _row(of, what, how, surface, parts)
    return RightImplementation(name, loss, make, sentence, surface)


def _row(
    of: str | type,
    what: str | Callable[..., Any],
    says: str,
    surface: Surface,
    parts: Mapping[str, Any],
) -> tuple[str, str, str, Callable[[], Callable[..., Any]]]:
    """The name, the loss, the sentence, and what makes a fresh implementation."""
    loss = of if isinstance(of, str) else str(vars(of)["loss"])
    if isinstance(what, str):
        if isinstance(of, str):
            raise TypeError(f"{loss}/{what}: parts replace those of a class, which is not given")
        return what, loss, says, type(what, (of,), dict(parts))
    sentence = says or " ".join((what.__doc__ or "").split())
    if not sentence:
        raise ValueError(f"{what.__name__} needs a docstring that says what it is")
    return _name(what), loss, sentence, _maker(of, what, surface)


def _maker(
    of: str | type, what: Callable[..., Any], surface: Surface
) -> Callable[[], Callable[..., Any]]:
    """What makes a fresh implementation: a class is instantiated, unless it is judged as one."""
    if isinstance(what, type) and surface == "function":
        if isinstance(of, str) or issubclass(what, of):
            return what
        return type(what.__name__, (what, of), {})
    return lambda: what


def _name(what: Callable[..., Any]) -> str:
    words = "".join(f"-{c.lower()}" if c.isupper() else c for c in what.__name__)
    return words.replace("_", "-").strip("-")


@cache
def defects() -> Mapping[str, RecreatedBug]:
    """Every wrong implementation by id, those of a loss together."""
    return {defect.id: defect for defect in _rows("WRONG")}


@cache
def right_implementations() -> Mapping[str, RightImplementation]:
    """Every right implementation by id, those of a loss together."""
    return {each.id: each for each in (*_rows("RIGHT"), *_baselines())}


def _baselines() -> Iterator[Baseline]:
    """The textbook compositions that ship."""
    for loss in catalogue():
        composition = textbook(loss)
        if composition is not None:
            says = " ".join((composition.__doc__ or "").split())
            yield Baseline("textbook", loss, partial(_same, composition), says)


def _same(composition: Callable[..., Any]) -> Callable[..., Any]:
    return composition


def _rows(table: str) -> Iterator[Any]:
    """The rows of a table in the files of all losses."""
    seen: set[str] = set()
    for loss in sorted(catalogue()):
        name = f"tests.defects.{loss}"
        if importlib.util.find_spec(name) is None:
            continue  # a loss from elsewhere
        for row in getattr(importlib.import_module(name), table):
            if row.loss != loss:
                raise ValueError(f"tests/defects/{loss}.py has a row of {row.loss}: {row.name}")
            if row.id in seen:
                raise ValueError(f"two rows of {table} are named {row.id!r}")
            seen.add(row.id)
            yield row
