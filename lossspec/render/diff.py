"""What changed between two reports: cells added, deleted, changed, unchanged."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lossspec.render.layout import judged, plural, seed_text
from lossspec.report.records import Cell, Report
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line


class Kind(StrEnum):
    """How the verdict of a cell in the new report relates to the old one's."""

    ADDED = "A"
    DELETED = "D"
    CHANGED = "C"
    UNCHANGED = "U"


@dataclass(frozen=True)
class Change:
    """One cell in both reports; None where a report does not hold it."""

    id: str
    old: Cell | None
    new: Cell | None

    @property
    def kind(self) -> Kind:
        """Added, deleted, changed or unchanged; only the verdict counts."""
        if self.old is None:
            return Kind.ADDED
        if self.new is None:
            return Kind.DELETED
        return Kind.UNCHANGED if self.old.verdict is self.new.verdict else Kind.CHANGED

    @property
    def regression(self) -> bool:
        """Whether a cell that did not fail now fails, or a cell vanished."""
        if self.old is None:
            return False
        return self.new is None or (self.new.verdict.fails and not self.old.verdict.fails)

    @property
    def other_reason(self) -> bool:
        """Whether the cell is a known deviation in both reports, for two reasons."""
        if self.old is None or self.new is None or self.old.reason == self.new.reason:
            return False
        return self.old.verdict is self.new.verdict is Verdict.KNOWN


@dataclass(frozen=True)
class Diff:
    """Every cell of two reports, in the order of the artifact."""

    old: Report
    new: Report
    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse."""
        return tuple(change for change in self.changes if change.regression)

    @property
    def exit_status(self) -> int:
        """1 where anything got worse, else 0."""
        return 1 if self.regressions else 0

    def count(self, kind: Kind) -> int:
        """The number of cells of one kind."""
        return sum(change.kind is kind for change in self.changes)

    def to_data(self) -> dict[str, Any]:
        """The diff as JSON data: the counts, and each change with its verdicts."""
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
        """The diff for a terminal or a log, what got worse first."""
        lines = [f"old: {_run(self.old)}", f"new: {_run(self.new)}"]
        if self.old.selection != self.new.selection:
            lines.append("note: the runs selected different parts of the suite")
        elif self.count(Kind.DELETED):
            lines.append("note: the new report lacks cells: -k, -m, --lf or -x leave some out")
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
    """The changes from ``old`` to ``new``; the reports may be of different implementations.

    A cell under a former id of its clause is the same cell; it is listed under the present id.
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
    """The line of a cell that is a known deviation for another reason than before."""
    old, new = (cell.reason if cell else None for cell in (change.old, change.new))
    sign = f"{Verdict.KNOWN.sign} {Verdict.KNOWN}"
    return f'{change.kind} {change.id}: {sign}; the reason was "{old}" and is "{new}"'


def _run(report: Report) -> str:
    return (
        f"{judged(report)}, lossspec {report.environment.lossspec}"
        f", {report.profile}, seed {seed_text(report.seed)}: {report.headline}"
    )
