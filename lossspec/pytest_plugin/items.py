"""The items of a run: each judges one cell and adds its record to pytest's report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from lossspec.errors import SpecError
from lossspec.judging.cell_record import blank
from lossspec.judging.plan import CellPlan
from lossspec.judging.run import Run
from lossspec.pytest_plugin.crash_history import script_path
from lossspec.pytest_plugin.hypothesis_options import collecting
from lossspec.pytest_plugin.printed import Printed, Streams, shortened
from lossspec.pytest_plugin.recorder import Recorder
from lossspec.pytest_plugin.report_writer import ReportWriter
from lossspec.pytest_plugin.xdist import cell_key
from lossspec.report.records import Cell
from lossspec.report.text import failure_text
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line


class Items:
    """Judge of the cells whose items run in this process.

    Attributes:
        config: The configuration of pytest.
        run: The run that the items belong to.
        recorder: The recorder of the records and scripts.
        writer: The writer of the reports.
        begins: A function that is called with the name of a campaign before it runs.
        judging: The name of the campaign that runs now.
        printed: The output of the implementation under test, by campaign.
        spent: The seconds that the item of a cell spent on campaigns, by cell. A campaign judges
            the cells of other items too.
        statistics: Hypothesis's statistics, by campaign.
    """

    def __init__(
        self,
        config: pytest.Config,
        run: Run,
        recorder: Recorder,
        writer: ReportWriter,
        begins: Callable[[str], None],
    ) -> None:
        self.config = config
        self.run = run
        self.recorder = recorder
        self.writer = writer
        self.begins = begins
        self.judging = ""
        self.printed: dict[str, Printed] = {}
        self.spent: dict[str, float] = {}
        self.statistics: dict[str, list[str]] = {}

    def keep_printed(self, read: Callable[[], tuple[str, str]]) -> None:
        """Keep the beginning of the output of each campaign.

        Args:
            read: A function that returns the output on stdout and stderr since its last call.
        """
        streams = Streams(read)
        self.run.after_step = streams.drain
        self.run.around = lambda name: streams.kept_in(self.printed.setdefault(name, Printed()))

    def judge(self, cell: CellPlan, here: Iterable[str]) -> None:
        """Run the campaign of a cell, unless it has run, and report the cell's verdict to pytest.

        Args:
            cell: The cell to judge.
            here: The keys of all cells that this process judges.
        """
        cells = self.recorder.cells.values()
        beside = [c for c in cells if c.campaign == cell.campaign and c.key in here]
        if cell.under_test is not None and not self.run.has(cell.campaign):
            self.begins(cell.campaign)
        spent = self.run.spent
        self.judging = cell.campaign
        said = self.statistics.setdefault(cell.campaign, [])
        try:
            with collecting(self.config, cell.campaign, said):
                record, script = self.run.judge(cell, beside)
        except SpecError as error:
            record, script = blank(cell, Verdict.CRASH, str(error)), ""
        self.spent[cell.key] = self.run.spent - spent
        if script:
            record = replace(record, script=script_path(cell, cell.clause.name))
        self.recorder.keep(cell.key, record, script)
        self._tell(cell, record)

    def _tell(self, cell: CellPlan, record: Cell) -> None:
        """Raise the pytest outcome of a verdict: skipped, xfailed or failed; nothing if passed."""
        if record.verdict is Verdict.UNSUPPORTED:
            pytest.skip(one_line(record.reason or "unsupported"))
        if record.verdict is Verdict.KNOWN:
            # A traceback would make pytest read the source files.
            raise pytest.xfail.Exception(one_line(record.reason or "known"), pytrace=False)
        if record.verdict.fails:
            if record.script:
                folder = self.writer.folder(cell.implementation.name)
                record = replace(record, script=str(folder / record.script))
            pytest.fail(failure_text(record, self.run.shows_cause(cell, record)), pytrace=False)

    def carry(self, item: pytest.Item, report: pytest.TestReport, when: str) -> None:
        """Add the record of a cell to pytest's report, as plain data that xdist can serialise."""
        report.sections = [(title, shortened(text)) for title, text in report.sections]
        key = cell_key(item.nodeid)
        records, cells = self.recorder.records, self.recorder.cells
        if key in records and when == "call":
            data: dict[str, Any] = {
                "record": records[key].to_data(),
                "script": self.recorder.scripts[key],
            }
            report.lossspec = data  # type: ignore[attr-defined]  # pytest carries extra attributes
            # The first item of a campaign also judges the cells of the campaign's other items.
            report.duration += records[key].seconds - self.spent[key]
        if key in cells and when == "call":
            said = self.statistics.pop(cells[key].campaign, [])
            if said:  # Hypothesis's own plugin prints this attribute
                item.hypothesis_statistics = "\n".join(said)  # type: ignore[attr-defined]
        if key in cells and report.failed:
            printed = self.printed.pop(cells[key].campaign, Printed())
            report.sections += [(f"Captured {name} call", t) for name, t in printed.sections()]
