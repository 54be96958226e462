"""The excused cases of a report, counted by reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lossspec.excuse import Excuse, word
from lossspec.report.records import Report

_SENTENCES: Mapping[str, str] = {str(excuse): excuse.says for excuse in Excuse}


@dataclass(frozen=True)
class Reason:
    """A reason for which cases are excused.

    Attributes:
        name: The reason, as in the artifact.
        cases: The number of cases with this reason.
        cells: The number of cells with such a case.
    """

    name: str
    cases: int = 0
    cells: int = 0

    @property
    def word(self) -> str:
        """The reason as reports print it."""
        return word(self.name)

    @property
    def says(self) -> str:
        """The sentence of the reason; empty if this version of lossspec does not know it."""
        return _SENTENCES.get(self.name, "")


def reasons(counts: Mapping[str, int]) -> list[Reason]:
    """Return the reasons of one cell, the most frequent first."""
    found = [Reason(name, count, 1) for name, count in counts.items() if count > 0]
    return sorted(found, key=lambda reason: -reason.cases)


def excused(report: Report) -> list[Reason]:
    """Return the reasons of all cells of a report, the most frequent first."""
    found: dict[str, Reason] = {}
    for cell in report.present:
        for reason in reasons(cell.excused):
            known = found.get(reason.name, Reason(reason.name))
            found[reason.name] = Reason(reason.name, known.cases + reason.cases, known.cells + 1)
    return sorted(found.values(), key=lambda reason: -reason.cases)
