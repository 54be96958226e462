"""The pytest session: plan, items, recorder and reports."""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lossspec.clauses import clauses
from lossspec.dtypes import REAL_DTYPES
from lossspec.errors import ArgumentError, SpecError, UnknownName
from lossspec.execution import timeout
from lossspec.execution.checkpoint import Underway, crashes, fatal_call
from lossspec.execution.devices import chosen
from lossspec.execution.implementation import Implementation
from lossspec.execution.loading import load
from lossspec.judging import known_deviations
from lossspec.judging.environment import Surroundings
from lossspec.judging.plan import CellPlan, Plan
from lossspec.judging.profiles import profile_named
from lossspec.judging.progress import Notes, Share
from lossspec.judging.stream import of_number
from lossspec.judging.verdict import Run, blank, crash
from lossspec.pytest_plugin.hooks import suite_of
from lossspec.pytest_plugin.options import given
from lossspec.pytest_plugin.printed import Printed, Streams, shortened
from lossspec.pytest_plugin.progress_line import ProgressLine, wanted
from lossspec.pytest_plugin.xdist import WholeCampaigns, cell_key
from lossspec.render import render_all, terminal
from lossspec.report.files import replace_file
from lossspec.report.folders import directory, folders
from lossspec.report.records import Cell, Report, Selection, TestedImplementation
from lossspec.report.text import failure_text
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line, quoted

#: What is known of a cell that was judged; NOT_RUN fails a run by itself.
_JUDGED = (Verdict.CONFORMS, Verdict.KNOWN, Verdict.DEVIATES, Verdict.CRASH, Verdict.NOT_RUN)


def split(option: str, values: Sequence[str]) -> tuple[str, ...] | None:
    """What a repeatable, comma-separated option was given; None when it was not."""
    words = tuple(w.strip() for value in values for w in value.split(",") if w.strip())
    if values and not words:
        raise ArgumentError(f"{option} was given no name")
    return words or None


class ConformanceSession:
    """Makes the items, judges them on a worker, gathers and reports on the controller."""

    def __init__(self, config: pytest.Config, plan: Plan, run: Run, directory: Path) -> None:
        self.config = config
        self.plan = plan
        self.run = run
        self.directory = directory
        self.folders = folders([implementation.name for implementation in plan.implementations])
        self.cells = {cell.key: cell for cell in plan.cells()}
        self.planned: set[str] = set()
        self.records: dict[str, Cell] = {}
        self.scripts: dict[str, str] = {}
        self.reports: list[Report] = []
        self.unwritten: list[str] = []
        self.unjudged: list[str] = []
        started = config.pluginmanager.get_plugin("lossspec-run")
        words = ["pytest", *map(str, config.invocation_params.args)]
        self.surroundings = Surroundings(words if started is None else started.words)
        self.here: list[str] = []
        self.died: dict[str, dict[str, Any]] = {}
        self.alone = True
        #: By campaign that was given up, the script of the call in which its last process ended.
        self.crashes: dict[str, str] = {}
        #: By campaign, the planned cells whose verdicts have not arrived.
        self.missing: dict[str, set[str]] = {}
        self.blanks: dict[str, Cell] = {}
        self.judging = ""
        #: The cells whose scripts were written since the folders were emptied.
        self.scripted: set[str] = set()
        self.printed: dict[str, Printed] = {}
        #: By cell, the seconds that the campaigns of its item took, which judge other cells too.
        self.spent: dict[str, float] = {}
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            streams = Streams(capture.read_global_capture)
            run.after_step = streams.drain
            run.around = lambda name: streams.kept_in(self.printed.setdefault(name, Printed()))
        self.line: ProgressLine | None = None

    @classmethod
    def of(cls, config: pytest.Config, places: Path | None = None) -> ConformanceSession:
        """From the options; pytest.UsageError says which is wrong and what is allowed.

        places : where campaigns note where they are, if anybody could take over.
        """
        option = given(config.option)
        try:
            losses = split("--loss", option.loss)
            profile = profile_named(option.profile)
            dtypes = split("--dtype", option.dtype)
            for dtype in dtypes or ():
                if dtype not in REAL_DTYPES:
                    raise UnknownName("dtype", dtype, REAL_DTYPES)
            if not re.fullmatch(r"\d{1,18}", str(option.seed)):
                raise ArgumentError(
                    f"--seed takes a whole number of 0 or more, of 18 digits at most, "
                    f"got {option.seed!r}"
                )
            names = dict.fromkeys(split("--impl", option.impl) or ())
            plan = Plan(
                [load(name, losses or ()) for name in names],
                losses,
                split("--clause", option.clause),
                chosen(split("--device", option.device) or ("cpu",)),
                slow=option.profile != "quick",
                shard=option.shard,
            )
            plan.check()
            known = [e for path in option.deviations for e in known_deviations.read(Path(path))]
            for implementation in plan.implementations:
                known_deviations.shipped(implementation.name)
            reports = directory(option.reports, config.invocation_params.dir, list(names))
        except ValueError as error:
            raise pytest.UsageError(one_line(str(error))) from None
        run = Run(
            profile,
            int(option.seed),
            dtypes,
            option.require_all,
            known,
            tuple(f"--deviations={path}" for path in option.deviations),
            places=places,
        )
        torch.set_num_threads(1)
        timeout.ends_process()
        if not gc.get_freeze_count():
            gc.freeze()  # what is imported stays: torch alone is a million objects to walk
        return cls(config, plan, run, reports)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Prepare to show how far the run is, or to tell that to the process that shows it."""
        shown: ProgressLine | Notes | None = None
        if hasattr(self.config, "workerinput"):
            if self.run.places is not None:
                shown = Notes(self.run.places, self.config.workerinput["workerid"])
        elif self._writes() and wanted(self.config):
            shown = self.line = ProgressLine(self.config, self._campaign_of, self.run.places)
            self.config.pluginmanager.register(self.line, "lossspec-progress")
        if shown is not None:
            advance = shown.advance
            self.run.on_progress = lambda *counts: advance(self.judging, *counts)

    def _campaign_of(self, nodeid: str) -> str | None:
        cell = self.cells.get(cell_key(nodeid) or "")
        return None if cell is None else cell.campaign

    # === items ============================================================================

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One item for each cell about which the spec says something."""
        if suite_of(metafunc) == "conformance":
            cells = [cell for cell in self.cells.values() if cell.applies]
            if hasattr(self.config, "workerinput"):  # the longest first, lest one worker end late
                cells.sort(key=lambda cell: -cell.loss.breadth)
            metafunc.parametrize("cell", [pytest.param(cell, id=cell.key) for cell in cells])

    @pytest.fixture
    def conformance(self) -> ConformanceSession:
        """What judges a cell."""
        return self

    def judge(self, cell: CellPlan) -> None:
        """Run the cell's campaign if that has not happened, and report its verdict to pytest."""
        wanted = self.here or self.cells
        beside = [c for c in self.cells.values() if c.campaign == cell.campaign and c.key in wanted]
        if cell.under_test is not None and not self.run.has(cell.campaign):
            self._save(under_way=cell.campaign)
        spent = self.run.spent
        self.judging = cell.campaign
        try:
            record, script = self.run.judge(cell, beside)
        except SpecError as error:
            record, script = blank(cell, Verdict.CRASH, str(error)), ""
        self.spent[cell.key] = self.run.spent - spent
        if script:
            name = f"{cell.loss.name}-{cell.clause.name}-{cell.surface}-{cell.device}.py"
            record = replace(record, script=f"repro/{name.replace(':', '-')}")
        self.records[cell.key] = record
        self.scripts[cell.key] = script
        if record.verdict is Verdict.UNSUPPORTED:
            pytest.skip(one_line(record.reason or "unsupported"))
        if record.verdict is Verdict.KNOWN:
            # Without a traceback, which pytest would read the sources for.
            raise pytest.xfail.Exception(one_line(record.reason or "known"), pytrace=False)
        if record.verdict.fails:
            if record.script:
                folder = self.folder(cell.implementation.name)
                record = replace(record, script=str(folder / record.script))
            pytest.fail(failure_text(record), pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the record on the report: plain data, which is all that crosses from a worker."""
        report = yield
        if not {"conformance", "timed"} & set(getattr(item, "fixturenames", ())):
            return report
        report.sections = [(title, shortened(text)) for title, text in report.sections]
        key = cell_key(item.nodeid)
        if key in self.records and call.when == "call":
            record = self.records[key]
            report.lossspec = {  # type: ignore[attr-defined]  # pytest carries extra attributes
                "record": record.to_data(),
                "script": self.scripts[key],
            }
            # The first item of a campaign runs it, and judges the cells of other items too.
            report.duration += record.seconds - self.spent[key]
        if key in self.cells and report.failed:
            printed = self.printed.pop(self.cells[key].campaign, Printed())
            report.sections += [(f"Captured {name} call", t) for name, t in printed.sections()]
        return report

    # === the recorder =====================================================================

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn the plan where no worker does the collecting."""
        self.here = [key for item in session.items if (key := cell_key(item.nodeid))]
        self.planned |= set(self.here)
        if self._writes():
            self._begin()

    def _begin(self) -> None:
        """Replace the reports of an earlier run, which a process that dies must not leave behind.

        Each campaign that ends is written to them: a process that dies loses one loss at most.
        """
        for key in self.planned & self.cells.keys():
            self.missing.setdefault(self.cells[key].campaign, set()).add(key)
        if self.line is not None:
            self.line.tally.expect({name: self._share(keys) for name, keys in self.missing.items()})
        for report in self._reports(dict(self._unjudged())):
            try:
                self._write(report, {})
            except OSError as error:
                self.planned.clear()  # nothing of it will be judged
                problem = self._cannot_write(report.implementation.name, error)
                raise pytest.UsageError(problem) from None

    def _share(self, keys: Set[str]) -> Share:
        """Return what a campaign with these cells is of the run."""
        cell = self.cells[next(iter(keys))]
        cases = 0 if cell.under_test is None else self.run.profile.cases(cell.loss)
        return Share(cell.loss.name, len(keys), cases * len(keys))

    def _save(self, under_way: str | None = None, done: str | None = None) -> None:
        """Write what is known while the run goes on: artifacts and scripts, not pages.

        under_way : the campaign that begins. done : the campaign that has ended.
        """
        if not self._writes():
            return
        records = dict(self._unjudged(under_way)) | self.records
        campaign = under_way or done
        about = {c.implementation.name for c in self.cells.values() if c.campaign == campaign}
        for report in self._reports(records):
            if under_way or report.implementation.name in about:
                with suppress(OSError):  # the end of the run tries again, and tells
                    self._write_artifact(report, self.scripts)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Deal out whole campaigns, where nothing else than `-n` was asked for."""
        if config.getoption("dist") != "load":
            return None
        xdist = importlib.import_module("xdist.scheduler").LoadScopeScheduling
        scheduling = type("CampaignScheduling", (WholeCampaigns, xdist), {})(config, log)
        scheduling.campaigns = {key: cell.campaign for key, cell in self.cells.items()}
        scheduling.places, scheduling.deaths = self.run.places, {}
        return scheduling

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Learn the plan from a worker; the controller itself collects nothing."""
        begun, self.planned = self.planned, {key for nodeid in ids if (key := cell_key(nodeid))}
        self.planned |= begun
        if not begun:
            self._begin()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what arrives; a cell that ended without a record has crashed."""
        key = cell_key(report.nodeid)
        if key is None or hasattr(self.config, "workerinput"):
            self.alone = False
            return
        carried = getattr(report, "lossspec", None)
        if carried is not None:
            self.records[key] = Cell.from_data(carried["record"])
            self.scripts[key] = carried["script"]
        elif report.failed and key in self.cells:
            lines = str(report.longrepr).strip().splitlines() or ["no message"]
            reason = f"the test process ended or failed: {quoted(lines[-1])}"
            self.records[key] = blank(self.cells[key], Verdict.CRASH, reason)
            if report.when not in ("setup", "call", "teardown"):  # xdist tells of a dead worker
                self.died[self.cells[key].campaign] = self._death(self.cells[key])
                self.records[key] = self._dead(self.cells[key])
        if key in self.records:
            self._arrived(key)

    def _arrived(self, key: str) -> None:
        """Write the reports when the last verdict of a campaign has arrived."""
        campaign = self.cells[key].campaign
        missing = self.missing.get(campaign, set())
        if key not in missing:
            return
        missing.remove(key)
        if self.line is not None:
            self.line.judged(campaign, self.records[key].verdict.fails)
        if missing and campaign not in self.died:
            return
        # Where this process judges, the beginning of the next campaign writes this one too.
        if not self.here or not any(self.missing.values()):
            self._save(done=campaign)

    def _death(self, cell: CellPlan) -> dict[str, Any]:
        """What is known of a campaign that was given up: in what, and at which call."""
        ended = crashes(self.run.places, cell.campaign)
        if not ended:
            return {"reason": f"the test process ended in {cell.key}"}
        steps = ", ".join(dict.fromkeys(step for _, step in ended))
        told: dict[str, Any] = {"reason": f"the test process ended {len(ended)} times, in {steps}"}
        run, (number, step) = self.run, ended[-1]
        if cell.under_test is not None:
            call = fatal_call(run.places, cell.campaign, len(ended) - 1)
            case = of_number(cell.under_test, number, run.profile, run.seed, run.dtypes)
            call = call or (None if case is None else Underway(case))
            if call is not None:
                clause = clauses().get(step, clauses()["accepts"])
                fields, self.crashes[cell.campaign] = crash(
                    cell.under_test, call, clause, cell.device
                )
                told |= fields
        return told

    def _dead(self, cell: CellPlan) -> Cell:
        record = blank(cell, Verdict.CRASH, **self.died[cell.campaign])
        if script := self.crashes.get(cell.campaign):
            self.scripts[cell.key] = script
            name = f"{cell.loss.name}-crash-{cell.surface}-{cell.device}.py"
            record = replace(record, script=f"repro/{name.replace(':', '-')}")
        return record

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; a planned cell that did not arrive fails the run."""
        if not self._writes():
            return
        # A part of a run without a cell is a part all the same, which `lossspec merge` asks for.
        empty = self.plan.shard is not None and session.exitstatus == pytest.ExitCode.OK
        self.reports = self._reports(dict(self._unjudged()) | self.records, empty)
        for report in self.reports:
            with self.writing(session, report.implementation.name):
                self._write(report, self.scripts)
        hypothesis = self.config.pluginmanager.get_plugin("hypothesispytest")
        if hypothesis is not None and self.alone and "hypothesis" not in sys.modules:
            # It would import all of Hypothesis, to sum up no test of its own.
            self.config.pluginmanager.unregister(hypothesis)
        lost = any(report.counts[Verdict.NOT_RUN] for report in self.reports)
        if lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.exitstatus == pytest.ExitCode.OK:
            asked = [i for i in self.plan.implementations if self._asked(i)]
            self.unjudged = [line for i in asked if (line := self._unjudged_of(i))]
            elsewhere = self.plan.shard is not None and self.plan.judgeable()
            if asked and len(self.unjudged) == len(asked) and not elsewhere:
                self.unjudged = [f"ERROR: {line}" for line in self.unjudged]
                session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _asked(self, implementation: Implementation) -> bool:
        """Whether the run was to judge an implementation.

        A part of a run may have no cell of it, or none that can be judged, when another part may.
        """
        if self.plan.shard is not None:
            return not self.plan.judgeable(implementation)
        keys = self.planned & self.cells.keys()
        return any(self.cells[key].implementation is implementation for key in keys)

    def _unjudged_of(self, implementation: Implementation) -> str:
        """Why nothing was judged of an implementation; empty when something was."""
        cells = [
            (self.cells[key], record)
            for key, record in self.records.items()
            if self.cells[key].implementation is implementation
        ]
        if any(record.verdict in _JUDGED for _, record in cells):
            return ""
        reasons = [self.plan.absences(implementation)] + [
            f"{record.id}: {record.verdict}, {record.reason}"
            for cell, record in cells
            if cell.under_test is not None
        ]
        told = [" ".join(reason.split())[:300] for reason in reasons if reason]
        more = [f"and {len(told) - 3} more"] if len(told) > 3 else []
        return f"nothing was judged of {implementation.name}: {'; '.join(told[:3] + more)}"

    def _writes(self) -> bool:
        return not hasattr(self.config, "workerinput") and not self.config.option.collectonly

    def _unjudged(self, under_way: str | None = None) -> Iterator[tuple[str, Cell]]:
        """Records for the cells that nothing came of, by key.

        under_way : the campaign that begins; only a process that dies leaves its records so.
        """
        touched = {self.cells[key].campaign for key in self.planned if key in self.cells}
        for key, cell in self.cells.items():
            if not cell.applies and cell.campaign in touched:
                if cell.clause.speaks_on(cell.device):
                    reason = f"the spec of {cell.loss.name} gives this clause nothing to say"
                else:
                    reason = f"this clause speaks on {cell.clause.only_on}s only"
                yield key, self._blank(cell, Verdict.NOT_APPLICABLE, reason)
            elif key in self.planned and cell.campaign in self.died:
                yield key, self._dead(cell)
            elif key in self.planned and cell.campaign == under_way:
                reason = (
                    f"the process ended while {cell.loss.name} was judged; run it with `-n 1`, "
                    "which goes on after a crash and shows the call"
                )
                yield key, self._blank(cell, Verdict.NOT_RUN, reason)
            elif key in self.planned:
                yield key, self._blank(cell, Verdict.NOT_RUN, "planned, and no verdict arrived")

    def _blank(self, cell: CellPlan, verdict: Verdict, reason: str) -> Cell:
        """Return the same record each time, which is written again for every loss."""
        known = self.blanks.get(cell.key)
        if known is None or (known.verdict, known.reason) != (verdict, reason):
            known = self.blanks[cell.key] = blank(cell, verdict, reason)
        return known

    def _reports(self, records: Mapping[str, Cell], empty: bool = False) -> list[Report]:
        """One for each implementation with records, or also the empty ones."""
        plan, environment = self.plan, self.surroundings.environment(self.plan.devices)
        selection = Selection(plan.losses, plan.clauses, self.run.dtypes, plan.devices, plan.shard)
        reports = []
        for implementation in plan.implementations:
            cells = tuple(
                record
                for key, record in records.items()
                if self.cells[key].implementation is implementation
            )
            name = implementation.name
            tested = TestedImplementation(
                name, implementation.version, implementation.target or name
            )
            if cells or empty:
                reports.append(
                    Report(
                        implementation=tested,
                        environment=environment,
                        profile=self.run.profile.name,  # type: ignore[arg-type]  # Report checks it
                        seed=self.run.seed,
                        selection=selection,
                        cells=cells,
                    )
                )
        return reports

    def folder(self, name: str) -> Path:
        """Where an implementation's report lies, as seen from where the run started."""
        folder = self.directory / self.folders[name]
        return Path(os.path.relpath(folder, self.config.invocation_params.dir))

    @contextmanager
    def writing(self, session: pytest.Session, name: str) -> Iterator[None]:
        """Keep what cannot be written of an implementation for the summary, which is not lost."""
        try:
            yield
        except OSError as error:
            self.unwritten.append(self._cannot_write(name, error))
            if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _cannot_write(self, name: str, error: OSError) -> str:
        return f"--reports: {self.folder(name)} cannot be written: {error.strerror or error}"

    def _write(self, report: Report, scripts: Mapping[str, str]) -> None:
        folder = self.config.invocation_params.dir / self.folder(report.implementation.name)
        for old in (folder / "repro").glob("*.py"):
            old.unlink()
        self.scripted.clear()
        self._write_artifact(report, scripts)
        render_all(report, folder)

    def _write_artifact(self, report: Report, scripts: Mapping[str, str]) -> None:
        name = report.implementation.name
        folder = self.config.invocation_params.dir / self.folder(name)
        for cell in report.cells:
            key = f"{name}:{cell.id}"
            if cell.script and key not in self.scripted:
                replace_file(folder / cell.script, scripts[key])
                self.scripted.add(key)
        report.write(folder / "conformance.json")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One screen: the counts and the first deviations."""
        for report in self.reports:
            terminalreporter.ensure_newline()
            name = report.implementation.name
            terminalreporter.section(f"lossspec: {one_line(name)}")
            # Line by line: pytest escapes what the terminal cannot show, ends of lines as well.
            for line in terminal.screen(report).splitlines():
                terminalreporter.write_line(line)
        for line in self.unwritten:
            terminalreporter.write_line(one_line(line), red=True)
        for line in self.unjudged:
            terminalreporter.write_line(one_line(line), red=line.startswith("ERROR"))

    def pytest_unconfigure(self) -> None:
        """Name the page to open, one for each implementation, below all that pytest prints."""
        if not self.unwritten and self.config.pluginmanager.hasplugin("terminalreporter"):
            for report in self.reports:
                page = self.folder(report.implementation.name) / "index.html"
                self.config.get_terminal_writer().line(f"report: {one_line(str(page))}")
