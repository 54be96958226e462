"""A conformance run under pytest: the items, and the recorder that compares plan with outcome."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lossspec import deviations
from lossspec.campaign import PROFILES
from lossspec.devices import DeviceError, chosen
from lossspec.implementations import ImplementationError, load
from lossspec.plan import Cell, Plan
from lossspec.render import render_all, terminal
from lossspec.run import Run, Surroundings, blank, failure_text
from lossspec.spec import REAL_DTYPES, UnknownName
from lossspec.verdict import Cell as Record
from lossspec.verdict import Report, Selection, Verdict, replace_file
from lossspec.verdict import Subject as Tested

_ITEM = re.compile(r"test_conformance\.py::test_conformance\[(.*?\[[^\[\]]*\])\](@.*)?$")


def split(values: Sequence[str]) -> tuple[str, ...] | None:
    """What a repeatable, comma-separated option was given; None when it was not."""
    return tuple(w.strip() for value in values for w in value.split(",") if w.strip()) or None


class Conformance:
    """Makes the items, judges them on a worker, gathers and writes the reports on the controller."""

    def __init__(self, config: pytest.Config, plan: Plan, run: Run, directory: Path) -> None:
        self.config = config
        self.plan = plan
        self.run = run
        self.directory = directory
        self.cells = {cell.key: cell for cell in plan.cells()}
        self.planned: set[str] = set()
        self.records: dict[str, Record] = {}
        self.scripts: dict[str, str] = {}
        self.written: list[Path] = []
        self.reports: list[Report] = []
        self.surroundings = Surroundings(["pytest", *map(str, config.invocation_params.args)])
        self.here: list[str] = []

    @classmethod
    def of(cls, config: pytest.Config) -> Conformance:
        """From the options; pytest.UsageError says which is wrong and what is allowed."""
        option = config.option
        losses = split(option.loss)
        try:
            if option.profile not in PROFILES:
                raise UnknownName("profile", option.profile, list(PROFILES))
            dtypes = split(option.dtype)
            for dtype in dtypes or ():
                if dtype not in REAL_DTYPES:
                    raise UnknownName("dtype", dtype, REAL_DTYPES)
            if not re.fullmatch(r"\d{1,18}", str(option.seed)):
                raise ValueError(f"--seed takes a whole number of 0 or more, got {option.seed!r}")
            names = dict.fromkeys(split(option.impl) or ())
            plan = Plan(
                [load(name, losses or ()) for name in names],
                losses,
                split(option.clause),
                chosen(split(option.device) or ("cpu",)),
                slow=option.profile != "quick",
            )
            plan.check()
            known = [e for path in option.deviations for e in deviations.read(Path(path))]
            for implementation in plan.implementations:
                deviations.shipped(implementation.name)
            directory = Path(option.reports)
            if directory.exists() and not directory.is_dir():
                raise ValueError(f"--reports takes a directory, and {directory} is a file")
        except (ImplementationError, UnknownName, DeviceError, ValueError) as error:
            raise pytest.UsageError(str(error)) from None
        run = Run(
            PROFILES[option.profile],
            int(option.seed),
            dtypes,
            option.require_all,
            known,
            "".join(f" --deviations={path}" for path in option.deviations),
        )
        # Campaigns are the unit of work: the cells of one go to one worker.
        if getattr(option, "dist", "no") == "load":
            option.dist = "loadgroup"
        torch.set_num_threads(1)
        return cls(config, plan, run, directory)

    # === items ============================================================================

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One item for each cell about which the spec says something."""
        if "cell" in metafunc.fixturenames and "conformance" in metafunc.fixturenames:
            metafunc.parametrize(
                "cell",
                [
                    pytest.param(cell, id=cell.key, marks=pytest.mark.xdist_group(cell.campaign))
                    for cell in self.cells.values()
                    if cell.applies
                ],
            )

    @pytest.fixture
    def conformance(self) -> Conformance:
        """What judges a cell."""
        return self

    def judge(self, cell: Cell) -> None:
        """Run the cell's campaign if that has not happened, and report its verdict to pytest."""
        wanted = set(self.here) or set(self.cells)
        beside = [c for c in self.cells.values() if c.campaign == cell.campaign and c.key in wanted]
        record, script = self.run.judge(cell, beside)
        if script:
            name = f"{cell.loss.name}-{cell.clause.name}-{cell.surface}-{cell.device}.py"
            record = replace(record, script=f"repro/{name.replace(':', '-')}")
        self.records[cell.key] = record
        self.scripts[cell.key] = script
        if record.verdict is Verdict.UNSUPPORTED:
            pytest.skip(record.reason or "unsupported")
        if record.verdict is Verdict.KNOWN:
            pytest.xfail(record.reason or "known")
        if record.verdict.fails:
            pytest.fail(failure_text(record), pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the record on the report: plain data, which is all that crosses from a worker."""
        report = yield
        key = cell_key(item.nodeid)
        if key in self.records and call.when == "call":
            report.lossspec = {  # type: ignore[attr-defined]  # pytest carries extra attributes
                "record": self.records[key].to_data(),
                "script": self.scripts[key],
            }
        return report

    # === the recorder =====================================================================

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Learn the plan where no worker does the collecting."""
        self.here = [key for item in session.items if (key := cell_key(item.nodeid))]
        self.planned |= set(self.here)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        """Learn the plan from a worker; the controller itself collects nothing."""
        self.planned |= {key for nodeid in ids if (key := cell_key(nodeid))}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what arrives; a cell that ended without a record has crashed."""
        key = cell_key(report.nodeid)
        if key is None or hasattr(self.config, "workerinput"):
            return
        carried = getattr(report, "lossspec", None)
        if carried is not None:
            self.records[key] = Record.from_data(carried["record"])
            self.scripts[key] = carried["script"]
        elif report.failed and key in self.cells:
            lines = str(report.longrepr).strip().splitlines() or ["no message"]
            reason = f"the test process ended or failed: {lines[-1][:300]}"
            self.records[key] = blank(self.cells[key], Verdict.CRASH, reason)
            self.scripts[key] = ""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; a planned cell that did not arrive fails the run."""
        if hasattr(self.config, "workerinput") or session.config.option.collectonly:
            return
        touched = {self.cells[key].campaign for key in self.planned if key in self.cells}
        for key, cell in self.cells.items():
            if key in self.planned and key not in self.records:
                self.records[key] = blank(cell, Verdict.NOT_RUN, "planned, and no verdict arrived")
            elif not cell.applies and cell.campaign in touched:
                reason = f"the spec of {cell.loss.name} gives this clause nothing to say"
                self.records[key] = blank(cell, Verdict.NOT_APPLICABLE, reason)
        for implementation in self.plan.implementations:
            prefix = f"{implementation.name}:"
            records = [r for key, r in self.records.items() if key.startswith(prefix)]
            if not records:
                continue
            report = Report(
                Tested(implementation.name, implementation.version, implementation.name),
                self.surroundings.environment(self.plan.devices),
                self.run.profile.name,
                self.run.seed,
                Selection(
                    self.plan.losses, self.plan.clauses, self.run.dtypes, self.plan.devices, None
                ),
                tuple(records),
            )
            self.reports.append(report)
            self._write(report, prefix)
        lost = any(report.counts[Verdict.NOT_RUN] for report in self.reports)
        if lost and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _write(self, report: Report, prefix: str) -> None:
        folder = self.directory / report.implementation.name.replace(":", ".").replace("/", ".")
        folder.mkdir(parents=True, exist_ok=True)
        for old in (folder / "repro").glob("*.py"):
            old.unlink()
        for key, script in self.scripts.items():
            record = self.records[key]
            if script and key.startswith(prefix) and record.script:
                path = folder / record.script
                path.parent.mkdir(exist_ok=True)
                replace_file(path, script)
        report.write(folder / "conformance.json")
        self.written += [folder / "conformance.json", *render_all(report, folder)]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One screen: the counts, the first deviations, where the report lies."""
        for report in self.reports:
            terminalreporter.ensure_newline()
            name = report.implementation.name
            folder = self.directory / name.replace(":", ".").replace("/", ".")
            terminalreporter.section(f"lossspec: {name}")
            terminalreporter.write_line(terminal.screen(report, folder / "index.html"))


def cell_key(nodeid: str) -> str | None:
    """The cell of an item of the suite; None for any other test."""
    match = _ITEM.search(nodeid)
    return match[1] if match else None
