"""The catalogue: every wrong loss and every right loss, by loss and name."""

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

#: An entry of the bug catalogue, if there is one, and the thread that reports the bug.
SOURCE = re.compile(r"(?:(?P<bug>[A-Z]{3}-\d\d), )?(?P<issue>[\w.-]+/[\w.-]+#\d+)")


class Baseline(RightImplementation):
    """The textbook composition of the timing suite, which accepts calls that must be refused."""


@dataclass(frozen=True, eq=False)
class RecreatedBug(Defect):
    """A wrong loss that re-creates a bug of a library.

    Attributes:
        needs: What a case must have to show the bug.
        witness: Given the loss, a result that differs from that of a right one. It is set if no
            case of the suite shows the bug.
    """

    needs: str = ""
    witness: Callable[[Callable[..., Any]], Any] | None = None

    def __post_init__(self) -> None:
        if not SOURCE.fullmatch(self.source):
            raise ValueError(f"{self.id}: source is {self.source!r}, want 'VAL-01, owner/name#1'")

    @property
    def bug(self) -> str:
        """Return the entry of the bug catalogue, or an empty string."""
        return self._source("bug")

    @property
    def issue(self) -> str:
        """Return the thread that reports the bug."""
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
    """Return a row of a table of wrong losses.

    Args:
        of: The right class, one of whose parts is replaced, or the name of the loss.
        what: The name of the defect; or a class or function whose name and docstring describe it.
        says: A sentence that says what is wrong, beside a name.
        source: The entry of the bug catalogue, if any, and the thread that reports the bug.
        needs: What a case must have to show the bug.
        awaits: What a clause needs to find the bug; empty if one finds it.
        surface: The surface of the loss.
        witness: Given the loss, a result that differs from that of a right one.
        **parts: The methods that replace those of the right class, beside a name.
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
    """Return a row of a table of right losses; the arguments are those of `wrong`."""
    name, loss, sentence, make = _row(of, what, how, surface, parts)
    return RightImplementation(name, loss, make, sentence, surface)


def _row(
    of: str | type,
    what: str | Callable[..., Any],
    says: str,
    surface: Surface,
    parts: Mapping[str, Any],
) -> tuple[str, str, str, Callable[[], Callable[..., Any]]]:
    """Return the name, the loss, the sentence, and a function that makes a new implementation."""
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
    """Return a function that makes a new implementation; it constructs a class with a call."""
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
    """Return every wrong loss by id, grouped by loss."""
    return {defect.id: defect for defect in _rows("WRONG")}


@cache
def right_implementations() -> Mapping[str, RightImplementation]:
    """Return every right loss by id, grouped by loss."""
    return {each.id: each for each in (*_rows("RIGHT"), *_baselines())}


def _baselines() -> Iterator[Baseline]:
    """Yield the textbook compositions of the package."""
    for loss in catalogue():
        composition = textbook(loss)
        if composition is not None:
            says = " ".join((composition.__doc__ or "").split())
            yield Baseline("textbook", loss, partial(_same, composition), says)


def _same(composition: Callable[..., Any]) -> Callable[..., Any]:
    return composition


def _rows(table: str) -> Iterator[Any]:
    """Yield the rows of a table in the files of all losses."""
    seen: set[str] = set()
    for loss in sorted(catalogue()):
        name = f"tests.defects.{loss}"
        if importlib.util.find_spec(name) is None:
            continue  # a loss of another package
        for row in getattr(importlib.import_module(name), table):
            if row.loss != loss:
                raise ValueError(f"tests/defects/{loss}.py has a row of {row.loss}: {row.name}")
            if row.id in seen:
                raise ValueError(f"two rows of {table} are named {row.id!r}")
            seen.add(row.id)
            yield row
