"""The HTML page of an audit: which clause finds which wrong loss, and which losses none finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from lossspec.audit import Result
from lossspec.clauses import clauses
from lossspec.render.html import environment


@dataclass
class Row:
    """One wrong loss.

    Attributes:
        id: The id of the defect.
        wrong: The defect, in one sentence.
        source: The report of such a bug; empty if there is none.
        awaits: The reason why no clause can find it yet; empty if there is none.
        found: The number of the first case that deviates, from 1, by the name of the clause.
    """

    id: str
    wrong: str
    source: str
    awaits: str
    found: dict[str, int]

    @property
    def first(self) -> int | None:
        """Return the number of the first case that deviates under any clause, from 1."""
        return min(self.found.values(), default=None)


def page(title: str, results: Sequence[Result]) -> str:
    """Return the results of an audit as an HTML page that needs no other file."""
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
