"""The differences between two reports: cells added, deleted, changed and unchanged."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lossspec.render.layout import judged, plural, seed_text
from lossspec.report.records import Cell, Report
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line


class Kind(StrEnum):
    """The kind of change of a cell from the old report to the new one."""

    ADDED = "A"
    DELETED = "D"
    CHANGED = "C"
    UNCHANGED = "U"


@dataclass(frozen=True)
class Change:
    """One cell in both reports.

    Attributes:
        id: The id of the cell.
        old: Its record in the old report; None if that report does not have the cell.
        new: Its record in the new report; None if that report does not have the cell.
    """

    id: str
    old: Cell | None
    new: Cell | None

    @property
    def kind(self) -> Kind:
        """The kind of change; a cell has changed if its verdict is another one."""
        if self.old is None:
            return Kind.ADDED
        if self.new is None:
            return Kind.DELETED
        return Kind.UNCHANGED if self.old.verdict is self.new.verdict else Kind.CHANGED

    @property
    def regression(self) -> bool:
        """Whether the cell fails only in the new report, or is missing from it."""
        if self.old is None:
            return False
        return self.new is None or (self.new.verdict.fails and not self.old.verdict.fails)

    @property
    def other_reason(self) -> bool:
        """Whether the cell is a known deviation in both reports, but with different reasons."""
        if self.old is None or self.new is None or self.old.reason == self.new.reason:
            return False
        return self.old.verdict is self.new.verdict is Verdict.KNOWN


@dataclass(frozen=True)
class Diff:
    """The changes of all cells between two reports, in the order of the artifact."""

    old: Report
    new: Report
    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes that are regressions."""
        return tuple(change for change in self.changes if change.regression)

    @property
    def exit_status(self) -> int:
        """The exit status: 1 if there is a regression, else 0."""
        return 1 if self.regressions else 0

    def count(self, kind: Kind) -> int:
        """Return the number of cells with one kind of change."""
        return sum(change.kind is kind for change in self.changes)

    def to_data(self) -> dict[str, Any]:
        """Return the diff as JSON data: the counts, and each change with its verdicts."""
        return {
            "counts": {str(kind): self.count(kind) for kind in Kind},
            "changes": [
                {
                    "kind": str(change.kind),
                    "id": change.id,
                    "old": None if change.old is None else str(change.old.verdict),
                    "new": None if change.new is None else str(change.new.verdict),
                    "regression": change.regression,
                }
                for change in self.changes
                if change.kind is not Kind.UNCHANGED
            ],
        }

    def text(self) -> str:
        """Return the diff as text, with the regressions first."""
        lines = [f"old: {_run(self.old)}", f"new: {_run(self.new)}"]
        if self.old.selection != self.new.selection:
            lines.append("note: the runs selected different parts of the suite")
        elif self.count(Kind.DELETED):
            lines.append(
                "note: the new report lacks cells; options such as -k and -x leave cells out"
            )
        counts = [f"{kind} {self.count(kind)} {kind.name.lower()}" for kind in Kind]
        lines += [", ".join(counts), ""]
        changed = [change for change in self.changes if change.kind is not Kind.UNCHANGED]
        changed.sort(key=lambda change: not change.regression)
        lines += [_line(change) for change in changed]
        lines += [_reasons(change) for change in self.changes if change.other_reason]
        if lines[-1]:
            lines.append("")
        worse = len(self.regressions)
        lines.append(plural(worse, "regression") if worse else "no regression")
        return "\n".join(one_line(line) for line in lines) + "\n"


def diff(old: Report, new: Report) -> Diff:
    """Return the changes from an old report to a new one, also of another implementation.

    A cell with a former name of its clause is the same cell, listed under the present id.
    """
    present = {former: cell.id for cell in (*old.cells, *new.cells) for former in cell.former_ids}
    before = {present.get(cell.id, cell.id): cell for cell in old.cells}
    after = {present.get(cell.id, cell.id): cell for cell in new.cells}
    cells = sorted((before | after).values(), key=lambda c: (c.loss, c.surface, c.clause, c.device))
    ids = [present.get(cell.id, cell.id) for cell in cells]
    changes = (Change(id_, before.get(id_), after.get(id_)) for id_ in ids)
    return Diff(old, new, tuple(changes))


def _line(change: Change) -> str:
    verdicts = " → ".join(
        f"{cell.verdict.sign} {cell.verdict}" if cell else "nothing"
        for cell in (change.old, change.new)
    )
    return f"{change.kind} {change.id}: {verdicts}{' (regression)' if change.regression else ''}"


def _reasons(change: Change) -> str:
    """Return the line of a cell whose known deviation has another reason than before."""
    old, new = (cell.reason if cell else None for cell in (change.old, change.new))
    sign = f"{Verdict.KNOWN.sign} {Verdict.KNOWN}"
    return f'{change.kind} {change.id}: {sign}; the reason was "{old}" and is "{new}"'


def _run(report: Report) -> str:
    return (
        f"{judged(report)}, lossspec {report.environment.lossspec}"
        f", {report.profile}, seed {seed_text(report.seed)}: {report.headline}"
    )
