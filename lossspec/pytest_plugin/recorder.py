"""The recorder of a run, which compares the planned cells with the verdicts that arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from lossspec.judging.cell_record import blank
from lossspec.judging.plan import CellPlan
from lossspec.judging.progress import Share
from lossspec.judging.run import Run
from lossspec.pytest_plugin.crash_history import CrashHistory
from lossspec.report.records import Cell
from lossspec.report.verdict import Verdict


class Recorder:
    """The cells of a run, with the records and scripts that have arrived.

    Attributes:
        cells: All cells of the plan, by key.
        run: The run.
        planned: The keys of the cells that pytest has collected.
        records: The records that have arrived, by key.
        scripts: Their reproduction scripts, by key; "" for a cell without one.
        missing: The keys of the planned cells without a verdict so far, by campaign.
        given_up: How the processes of a given-up campaign ended, by campaign.
    """

    def __init__(self, cells: Iterable[CellPlan], run: Run) -> None:
        self.cells = {cell.key: cell for cell in cells}
        self.run = run
        self.planned: set[str] = set()
        self.records: dict[str, Cell] = {}
        self.scripts: dict[str, str] = {}
        self.missing: dict[str, set[str]] = {}
        self.given_up: dict[str, CrashHistory] = {}
        self._blanks: dict[str, Cell] = {}

    def campaign_of(self, key: str | None) -> str | None:
        """Return the campaign of the cell with this key; None if the plan has no such cell."""
        cell = self.cells.get(key or "")
        return None if cell is None else cell.campaign

    def expect(self) -> None:
        """Expect a verdict on every planned cell."""
        for key in self.planned & self.cells.keys():
            self.missing.setdefault(self.cells[key].campaign, set()).add(key)

    def shares(self) -> dict[str, Share]:
        """Return the share of each campaign in the run, for the progress line."""
        return {name: self._share(keys) for name, keys in self.missing.items()}

    def _share(self, keys: Set[str]) -> Share:
        cell = self.cells[next(iter(keys))]
        cases = 0 if cell.under_test is None else self.run.profile.cases(cell.loss)
        return Share(cell.loss.name, len(keys), cases * len(keys))

    def keep(self, key: str, record: Cell, script: str) -> None:
        """Keep the record and the script of a cell."""
        self.records[key], self.scripts[key] = record, script

    def receive(self, key: str, carried: Mapping[str, Any]) -> None:
        """Keep the record and the script that pytest's report carries from a worker.

        Args:
            key: The key of the cell.
            carried: The data that `Items.carry` has added to the report.
        """
        self.keep(key, Cell.from_data(carried["record"]), carried["script"])

    def lose(self, key: str, reason: str) -> None:
        """Record that the item of a cell ended without a verdict."""
        self.records[key] = blank(self.cells[key], Verdict.CRASH, reason)

    def give_up(self, key: str) -> None:
        """Record that the campaign of a cell has ended too many processes."""
        cell = self.cells[key]
        self.given_up[cell.campaign] = CrashHistory.read(self.run, cell)
        self.records[key] = self._dead(cell)

    def _dead(self, cell: CellPlan) -> Cell:
        history = self.given_up[cell.campaign]
        if history.script:
            self.scripts[cell.key] = history.script
        return history.record(cell)

    def arrive(self, key: str) -> bool | None:
        """Count the verdict on a cell as arrived.

        Returns:
            Whether the campaign of the cell is complete now; None if the verdict was not missing.
        """
        campaign = self.cells[key].campaign
        missing = self.missing.get(campaign, set())
        if key not in missing:
            return None
        missing.remove(key)
        return not missing or campaign in self.given_up

    def all_records(self, under_way: str | None = None) -> dict[str, Cell]:
        """Return a record for every cell, including the cells without a verdict.

        Args:
            under_way: The campaign that begins now. Its cells get a record that stays in the
                report only if the process dies during the campaign.
        """
        return dict(self._unjudged(under_way)) | self.records

    def _unjudged(self, under_way: str | None) -> Iterator[tuple[str, Cell]]:
        touched = {self.cells[key].campaign for key in self.planned if key in self.cells}
        for key, cell in self.cells.items():
            if not cell.applies and cell.campaign in touched:
                if cell.clause.speaks_on(cell.device):
                    reason = f"the spec of {cell.loss.name} has nothing that this clause checks"
                else:
                    reason = f"this clause applies to {cell.clause.only_on}s only"
                yield key, self._blank(cell, Verdict.NOT_APPLICABLE, reason)
            elif key in self.planned and cell.campaign in self.given_up:
                yield key, self._dead(cell)
            elif key in self.planned and cell.campaign == under_way:
                reason = (
                    f"the test process ended while it judged {cell.loss.name}; run again with "
                    "`-n 1` to continue after a crash and to see the call"
                )
                yield key, self._blank(cell, Verdict.NOT_RUN, reason)
            elif key in self.planned:
                yield key, self._blank(cell, Verdict.NOT_RUN, "planned, but no verdict arrived")

    def _blank(self, cell: CellPlan, verdict: Verdict, reason: str) -> Cell:
        """Return a record without cases, cached because it is written again for every loss."""
        known = self._blanks.get(cell.key)
        if known is None or (known.verdict, known.reason) != (verdict, reason):
            known = self._blanks[cell.key] = blank(cell, verdict, reason)
        return known
