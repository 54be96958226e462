"""The page of an audit: which clause finds which wrong loss, in which case, and what none finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from lossspec.audit import Result
from lossspec.clauses import clauses
from lossspec.render.html import environment


@dataclass
class Row:
    """One wrong loss. found : the case, counted from 1, in which each clause first deviated."""

    id: str
    wrong: str
    source: str
    awaits: str
    found: dict[str, int]

    @property
    def first(self) -> int | None:
        """The first case in which any clause deviated."""
        return min(self.found.values(), default=None)


def page(title: str, results: Sequence[Result]) -> str:
    """What an audit found, as a page of HTML that needs no other file."""
    rows = [_row(result) for result in results]
    found = [row for row in rows if row.found]
    asked = {name for row in rows for name in row.found}
    columns = {
        theme: names
        for theme, group in groupby(clauses().values(), key=lambda clause: clause.theme)
        if (names := [clause.name for clause in group if clause.name in asked])
    }
    return _ENVIRONMENT.get_template("audit.html.j2").render(
        title=title,
        rows=rows,
        survivors=[row for row in rows if not row.found],
        found=found,
        half=median(r.found[0].index + 1 for r in results if r.found) if found else None,
        seconds=median(r.found[0].seconds for r in results if r.found) if found else None,
        columns=columns,
        says={clause.name: clause.says for clause in clauses().values()},
    )


def _row(result: Result) -> Row:
    defect = result.implementation
    return Row(
        defect.id,
        getattr(defect, "wrong", ""),
        getattr(defect, "source", ""),
        getattr(defect, "awaits", ""),
        {each.clause: each.index + 1 for each in result.found},
    )


_ENVIRONMENT = environment()
