"""The pytest session of a run: hooks that make items, collect verdicts and write reports."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lossspec.judging.environment import Surroundings
from lossspec.judging.plan import CellPlan, Plan
from lossspec.judging.progress import Notes
from lossspec.judging.run import Run
from lossspec.pytest_plugin.hooks import suite_of
from lossspec.pytest_plugin.items import Items
from lossspec.pytest_plugin.nothing_judged import nothing_judged
from lossspec.pytest_plugin.progress_line import ProgressLine, wanted
from lossspec.pytest_plugin.recorder import Recorder
from lossspec.pytest_plugin.report_writer import ReportWriter
from lossspec.pytest_plugin.summary import write_summary
from lossspec.pytest_plugin.xdist import cell_key, whole_campaigns
from lossspec.report.records import Report
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line, quoted


class ConformanceSession:
    """The plugin of one run: it makes and judges items, and writes the reports.

    With pytest-xdist, a worker judges the items and the controller writes the reports.

    Attributes:
        config: The configuration of pytest.
        plan: The plan of the run.
        run: The run.
        surroundings: The environment of the run.
        recorder: The recorder of the records and scripts.
        writer: The writer of the reports.
        items: The judge of the cells.
        line: The progress line; None if no line is shown.
        here: The keys of the items of this process; empty on a controller.
        alone: Whether no item of another suite has run.
        reports: The reports, once the run is over.
        unwritten: Lines for the summary: why a report could not be written.
        unjudged: Lines for the summary: why nothing was judged of an implementation.
    """

    def __init__(self, config: pytest.Config, plan: Plan, run: Run, directory: Path) -> None:
        self.config = config
        self.plan = plan
        self.run = run
        started = config.pluginmanager.get_plugin("lossspec-run")
        words = ["pytest", *map(str, config.invocation_params.args)]
        self.surroundings = Surroundings(words if started is None else started.words)
        self.recorder = Recorder(plan.cells(), run)
        self.writer = ReportWriter(
            plan, run, self.surroundings, directory, config.invocation_params.dir
        )
        self.items = Items(
            config, run, self.recorder, self.writer, lambda name: self._save(begins=name)
        )
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            self.items.keep_printed(capture.read_global_capture)
        self.line: ProgressLine | None = None
        self.here: list[str] = []
        self.alone = True
        self.reports: list[Report] = []
        self.unwritten: list[str] = []
        self.unjudged: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Set up the progress line, or on a worker the notes for the line of the controller."""
        shown: ProgressLine | Notes | None = None
        if hasattr(self.config, "workerinput"):
            if self.run.places is not None:
                shown = Notes(self.run.places, self.config.workerinput["workerid"])
        elif self._writes() and wanted(self.config):
            shown = self.line = ProgressLine(
                self.config,
                lambda nodeid: self.recorder.campaign_of(cell_key(nodeid)),
                self.run.places,
            )
            self.config.pluginmanager.register(self.line, "lossspec-progress")
        if shown is not None:
            advance = shown.advance
            self.run.on_progress = lambda *counts: advance(self.items.judging, *counts)

    # === items ============================================================================

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item for each cell whose clause applies to the loss."""
        if suite_of(metafunc) == "conformance":
            cells = [cell for cell in self.recorder.cells.values() if cell.applies]
            if hasattr(self.config, "workerinput"):  # longest first, so that workers end together
                cells.sort(key=lambda cell: -cell.loss.breadth)
            metafunc.parametrize("cell", [pytest.param(cell, id=cell.key) for cell in cells])

    @pytest.fixture
    def conformance(self) -> ConformanceSession:
        """Provide this session to the items, which call its `judge`."""
        return self

    def judge(self, cell: CellPlan) -> None:
        """Run the campaign of a cell, unless it has run, and report the verdict to pytest."""
        self.items.judge(cell, self.here or self.recorder.cells)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add the record of a cell to the report of its item."""
        report = yield
        if {"conformance", "timed"} & set(getattr(item, "fixturenames", ())):
            self.items.carry(item, report, call.when)
        return report

    # === the recorder =====================================================================

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the collected cells, and begin the reports unless this is a worker."""
        self.here = [key for item in session.items if (key := cell_key(item.nodeid))]
        self.recorder.planned |= set(self.here)
        if self._writes():
            self._begin()

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Return a scheduler that keeps campaigns whole; None if `--dist` asks for another one."""
        if config.getoption("dist") != "load":
            return None
        campaigns = {key: cell.campaign for key, cell in self.recorder.cells.items()}
        return whole_campaigns(config, log, campaigns, self.run.places)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Record the cells that a worker has collected, since the controller collects none."""
        begun = bool(self.recorder.planned)
        self.recorder.planned |= {key for nodeid in ids if (key := cell_key(nodeid))}
        if not begun:
            self._begin()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the record that a report carries; a failed item without one counts as a crash."""
        key = cell_key(report.nodeid)
        if key is None or hasattr(self.config, "workerinput"):
            self.alone = False
            return
        recorder = self.recorder
        carried = getattr(report, "lossspec", None)
        if carried is not None:
            recorder.receive(key, carried)
        elif report.failed and key in recorder.cells:
            if report.when in ("setup", "call", "teardown"):
                lines = str(report.longrepr).strip().splitlines() or ["no message"]
                recorder.lose(key, f"the test process ended or failed: {quoted(lines[-1])}")
            else:  # a report of xdist about a crashed worker
                recorder.give_up(key)
        if key in recorder.records:
            self._arrived(key)

    def _arrived(self, key: str) -> None:
        """Write the reports when the last verdict of a campaign has arrived."""
        complete = self.recorder.arrive(key)
        if complete is None:
            return
        campaign = self.recorder.cells[key].campaign
        if self.line is not None:
            self.line.judged(campaign, self.recorder.records[key].verdict.fails)
        # A process that judges saves this campaign when the next one begins.
        if complete and not (self.here and any(self.recorder.missing.values())):
            self._save(ended=campaign)

    # === the reports ======================================================================

    def _writes(self) -> bool:
        return not hasattr(self.config, "workerinput") and not self.config.option.collectonly

    def _begin(self) -> None:
        """Replace the reports of an earlier run, so that a crash does not leave those behind.

        Later, the end of each campaign is saved in them: a crash loses one loss at most.
        """
        recorder = self.recorder
        recorder.expect()
        if self.line is not None:
            self.line.tally.expect(recorder.shares())
        for report in self.writer.reports(recorder.cells, recorder.all_records()):
            try:
                self.writer.write(report, {})
            except OSError as error:
                recorder.planned.clear()  # otherwise the end of the run would report them as lost
                problem = self.writer.problem(report.implementation.name, error)
                raise pytest.UsageError(problem) from None

    def _save(self, begins: str | None = None, ended: str | None = None) -> None:
        """Write artifacts and scripts, but no pages, during the run.

        Args:
            begins: The campaign that begins now, if any.
            ended: The campaign that has just ended, if any.
        """
        if not self._writes():
            return
        recorder = self.recorder
        cells, campaign = recorder.cells, begins or ended
        about = {c.implementation.name for c in cells.values() if c.campaign == campaign}
        for report in self.writer.reports(cells, recorder.all_records(begins)):
            if begins or report.implementation.name in about:
                with suppress(OSError):  # the end of the run tries again and reports a failure
                    self.writer.write_artifact(report, recorder.scripts)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports, and fail the run if the verdict on a planned cell is missing."""
        if not self._writes():
            return
        # `lossspec merge` needs the report of every shard, also of one without a cell.
        empty = self.plan.shard is not None and session.exitstatus == pytest.ExitCode.OK
        recorder = self.recorder
        self.reports = self.writer.reports(recorder.cells, recorder.all_records(), empty)
        for report in self.reports:
            with self.writing(session, report.implementation.name):
                self.writer.write(report, recorder.scripts)
        lost = any(report.counts[Verdict.NOT_RUN] for report in self.reports)
        if lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.exitstatus == pytest.ExitCode.OK:
            self.unjudged, wrong = nothing_judged(self.plan, recorder)
            if wrong:
                session.exitstatus = pytest.ExitCode.USAGE_ERROR

    @contextmanager
    def writing(self, session: pytest.Session, name: str) -> Iterator[None]:
        """Turn an OSError in this context into a line of the summary and a failing exit status.

        Args:
            session: The session whose exit status is set.
            name: The implementation whose report is written.
        """
        try:
            yield
        except OSError as error:
            self.unwritten.append(self.writer.problem(name, error))
            if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary of each report: the counts and the first deviations."""
        write_summary(terminalreporter, self.reports, self.unwritten, self.unjudged)

    def pytest_unconfigure(self) -> None:
        """Print the path of each report's page, below all other output of pytest."""
        if not self.unwritten and self.config.pluginmanager.hasplugin("terminalreporter"):
            for report in self.reports:
                page = self.writer.folder(report.implementation.name) / "index.html"
                self.config.get_terminal_writer().line(f"report: {one_line(str(page))}")
