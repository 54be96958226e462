"""The failing cells of a report, grouped by cause into blocks."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lossspec.report.records import Cell
from lossspec.report.verdict import Verdict

#: The clauses whose deviations explain a cause best; a block shows one of these first.
TELLING = ("accepts", "result-shape", "result-dtype", "value", "gradient")


@dataclass(frozen=True)
class OtherKind:
    """A further deviation of a cell, of another kind than the one that the cell shows first.

    Attributes:
        reason: What deviates.
        call: The failing call as text.
        got: The result as text.
        want: The right answer as text.
        cause: The cause, if it is known.
        same_cause: Whether the first deviation of the cell has the same cause.
    """

    reason: str
    call: str | None
    got: str | None
    want: str | None
    cause: str | None
    same_cause: bool

    def told(self, with_call: bool = False) -> str:
        """Return a sentence such as "another kind: the value with 'sum'; got 1; want 2"."""
        sides = (("got", self.got), ("want", self.want))
        told = "".join(f"; {name} {text}" for name, text in sides if text is not None)
        call = f"\n{self.call}" if with_call and self.call else ""
        kind = "the same cause" if self.same_cause else "another kind"
        return f"{kind}: {self.reason}{told}{call}"


@dataclass(frozen=True)
class Block:
    """Failing cells with one cause.

    Attributes:
        shown: The cell that shows the cause best.
        others: The other cells.
    """

    shown: Cell
    others: tuple[Cell, ...] = ()

    @property
    def count(self) -> int:
        """The number of cells."""
        return 1 + len(self.others)

    def label(self, cell: Cell) -> str:
        """Return the parts of another cell's name that differ from the shown cell."""
        name = cell.clause if cell.loss == self.shown.loss else f"{cell.loss}/{cell.clause}"
        where = [
            getattr(cell, field)
            for field in ("surface", "device")
            if getattr(cell, field) != getattr(self.shown, field)
        ]
        return name + (f" ({', '.join(where)})" if where else "")

    def also(self, most: int) -> str:
        """Return the names of the other cells, such as "value, ... (3 more cells)".

        Args:
            most: The largest number of names.
        """
        names = ", ".join(self.label(cell) for cell in self.others[:most])
        left = len(self.others) - most
        if left <= 0:
            return names
        more = f"({left} more {'cell' if left == 1 else 'cells'})"
        return f"{names}, ... {more}" if names else more


def blocks(cells: Iterable[Cell]) -> list[Block]:
    """Return the failing cells by cause, the largest block first.

    A cell with deviations of other kinds joins the block of another cell only if some block shows
    each of these deviations. Otherwise it gets a block of its own.
    """
    groups: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        if cell.verdict.fails:
            groups.setdefault(_key(cell), []).append(cell)
    ordered = [sorted(group, key=lambda cell: telling(cell.clause)) for group in groups.values()]
    shown = {key for group in ordered for key in _keys(group[0])}
    found = []
    for first, *rest in ordered:
        others = []
        for cell in rest:
            if _keys(cell) <= shown:
                others.append(cell)
            else:
                shown |= _keys(cell)
                found.append(Block(cell))
        found.append(Block(first, tuple(others)))
    places = {cell.id: place for place, cell in enumerate(c for group in ordered for c in group)}
    return sorted(found, key=lambda block: (-block.count, places[block.shown.id]))


def telling(clause: str) -> int:
    """Return the rank of a clause: the lower, the better its deviation explains a cause."""
    return TELLING.index(clause) if clause in TELLING else len(TELLING)


def other_kinds(cell: Cell) -> list[OtherKind]:
    """Return the deviations of other kinds in a cell's record; skip entries of another form."""
    given = cell.extra.get("further")
    found = []
    for entry in given if isinstance(given, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("reason"), str):
            call, got, want, cause = (_text(entry, n) for n in ("call", "got", "want", "cause"))
            same = cause is not None and cause == cell.cause
            found.append(OtherKind(entry["reason"], call, got, want, cause, same))
    return found


def unlike(cell: Cell) -> list[OtherKind]:
    """Return the deviations of other kinds that have another cause than the first deviation."""
    return [other for other in other_kinds(cell) if not other.same_cause]


def _text(entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return value if isinstance(value, str) else None


def _keys(cell: Cell) -> set[Hashable]:
    """Return the keys of a cell's first deviation and of its deviations of other kinds."""
    others = other_kinds(cell)
    return {_key(cell), *(_deviation(cell, o.cause, o.reason, o.got, o.want) for o in others)}


def _key(cell: Cell) -> Hashable:
    """Return a key that is equal for cells with one cause."""
    verdict, loss, reason = cell.verdict, cell.loss, cell.reason
    if cell.cause is None and reason is None:
        return cell.id
    if verdict is Verdict.DEVIATES and (cell.cause or cell.call is not None):
        return _deviation(cell, cell.cause, reason, cell.got, cell.want)
    if verdict is Verdict.NOT_RUN:
        return verdict, reason
    return verdict, loss, reason, cell.call


def _deviation(
    cell: Cell, cause: str | None, reason: str | None, got: str | None, want: str | None
) -> Hashable:
    """Return a key for a deviation: its cause, or without one its clause and result."""
    if cause is not None:
        return Verdict.DEVIATES, cause
    return Verdict.DEVIATES, cell.loss, cell.clause, reason, got, want
