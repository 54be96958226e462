"""The timing suite under pytest: its items, artifacts and summary."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from lossspec.execution.implementation import Implementation
from lossspec.pytest_plugin.hooks import suite_of
from lossspec.pytest_plugin.options import given
from lossspec.pytest_plugin.session import ConformanceSession
from lossspec.report.files import replace_file
from lossspec.report.records import TestedImplementation
from lossspec.safe_text import escaped, one_line
from lossspec.timing.measure import TimingRun, paired
from lossspec.timing.page import page
from lossspec.timing.plan import TimedLoss, TimingCell, growing, timing_cells
from lossspec.timing.results import MODES, Growth, Rules, Timing, TimingReport
from lossspec.timing.statistics import beyond, limit
from lossspec.timing.table import table


class TimingSession:
    """The plugin of a timing run: it makes and times the items, and writes the reports."""

    def __init__(
        self, config: pytest.Config, conformance: ConformanceSession, fail: float | None
    ) -> None:
        self.config = config
        self.conformance = conformance
        self.fail = fail
        self.race = TimingRun(conformance.run.seed)
        self.cells: dict[str, list[Timing]] = {}
        self.growth: dict[str, list[Growth]] = {}
        self.load = os.getloadavg()
        self.benchmarks: set[str] = set()

    @classmethod
    def of(cls, config: pytest.Config, conformance: ConformanceSession) -> TimingSession:
        """Return a timing session made from the options.

        Args:
            config: The configuration of pytest.
            conformance: The session of the same run.

        Raises:
            pytest.UsageError: An option is not allowed here, or the implementations have none of
                the losses.
        """
        option = config.option
        if getattr(option, "dist", "no") != "no" or hasattr(config, "workerinput"):
            raise pytest.UsageError(
                "the timing suite runs in one process, because workers of pytest-xdist would "
                "disturb each other's times; leave out -n"
            )
        if not config.pluginmanager.hasplugin("benchmark"):
            raise pytest.UsageError(
                "the timing suite needs pytest-benchmark: pip install lossspec[timing]"
            )
        for switch in ("disable", "skip"):
            if getattr(option, f"benchmark_{switch}", False):
                raise pytest.UsageError(
                    f"the timing suite cannot run with --benchmark-{switch}; leave it out"
                )
        own = given(option)
        if own.shard is not None:
            raise pytest.UsageError("the timing suite has no shards; leave out --shard")
        try:
            fail = None if own.timing_fail is None else limit(own.timing_fail)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
        made = cls(config, conformance, fail)
        if not made.entrants():
            names = ", ".join(i.name for i in conformance.plan.implementations)
            wanted = ", ".join(loss.name for loss in conformance.plan.chosen_losses())
            raise pytest.UsageError(f"nothing to time: {names} has none of the losses {wanted}")
        return made

    def entrants(self) -> list[tuple[str, TimedLoss]]:
        """Return the losses to time, each with a name that is unique within the run."""
        plan = self.conformance.plan
        found = []
        for loss in plan.chosen_losses():
            for implementation in plan.implementations:
                # The function comes first; a class would only wrap it.
                under_test = next(iter(implementation.losses_under_test(loss)), None)
                for device in plan.devices if under_test is not None else ():
                    for dtype in self.conformance.run.dtypes or ("float32",):
                        assert under_test is not None
                        timed_loss = TimedLoss(implementation, under_test, device, dtype)
                        found.append((f"{implementation.name}:{timed_loss.name}", timed_loss))
        return found

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item for each size and mode, and one for each axis whose growth is measured."""
        if suite_of(metafunc) != "timing":
            return
        if "timing_cell" in metafunc.fixturenames:
            every = [
                timing_cell
                for _, timed_loss in self.entrants()
                for timing_cell in timing_cells(timed_loss, MODES)
            ]
            names = [
                f"{timing_cell.timed_loss.implementation.name}:{timing_cell.id}"
                for timing_cell in every
            ]
            metafunc.parametrize("timing_cell", every, ids=names)
        elif "axis" in metafunc.fixturenames:
            pairs = [(name, e, axis) for name, e in self.entrants() for axis in growing(e)]
            ids = [f"{name}-{axis}" for name, _, axis in pairs]
            metafunc.parametrize("timed_loss, axis", [pair[1:] for pair in pairs], ids=ids)

    @pytest.fixture
    def timed(self) -> TimingSession:
        """Provide this session to the items, which call `time` and `grow`."""
        return self

    def time(self, timing_cell: TimingCell, benchmark: Any) -> None:
        """Time one cell, add it to pytest-benchmark's results, and report it to pytest."""
        drive = paired(benchmark)
        benchmark.group = timing_cell.timed_loss.under_test.loss.name
        self.benchmarks.add(benchmark.fullname)
        cell = self.race.run(timing_cell, drive)
        self.cells.setdefault(timing_cell.timed_loss.implementation.name, []).append(cell)
        benchmark.extra_info["verdict"] = cell.verdict
        for arm in cell.arms[:1]:
            # A block of several calls begins with a warm-up call that the artifact leaves out.
            benchmark.extra_info["calls in a round"] = arm.calls + (arm.calls > 1)
        for found in cell.comparisons:
            benchmark.extra_info[f"time / {found.baseline}"] = found.own.to_data()
        if cell.verdict == "not-timed":
            pytest.skip(one_line(f"not-timed: {cell.reason}"))
        slow = None if self.fail is None else beyond(cell, self.fail)
        if slow is not None:
            pytest.fail(
                f"{cell.id}: takes {slow.deciding.ratio:.2f} times torch's time (at least "
                f"{slow.deciding.low:.2f}), on the {slow.clock} clock; --timing-fail allows "
                f"{self.fail}",
                pytrace=False,
            )

    def grow(self, timed_loss: TimedLoss, axis: str) -> None:
        """Measure how time and memory grow with the size of one axis."""
        curves = self.race.grow(timed_loss, axis)
        self.growth.setdefault(timed_loss.implementation.name, []).extend(curves)
        if not curves[0].sizes:
            pytest.skip(one_line(f"not-timed: {curves[0].reason}"))

    def reports(self) -> list[TimingReport]:
        """Return a report for each implementation with a measurement."""
        made = []
        conformance = self.conformance
        environment = conformance.surroundings.environment(conformance.plan.devices)
        for implementation in conformance.plan.implementations:
            name = implementation.name
            if name in self.cells or name in self.growth:
                made.append(
                    TimingReport(
                        implementation=_tested(implementation),
                        environment=environment,
                        seed=conformance.run.seed,
                        rules=Rules(),
                        load=self.load,
                        cells=tuple(self.cells.get(name, ())),
                        growth=tuple(self.growth.get(name, ())),
                    )
                )
        return made

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the artifacts and their pages."""
        self._hide_benchmarks()
        for report in self.reports():
            folder = self._folder(report)
            with self.conformance.writing(session, report.implementation.name):
                report.write(folder / "timing.json")
                replace_file(folder / "timing.html", page(report))

    def _folder(self, report: TimingReport) -> Path:
        folder = self.conformance.writer.folder(report.implementation.name)
        return Path(self.config.invocation_params.dir, folder)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the times, the counts and the path of the page."""
        for report in self.reports():
            terminalreporter.ensure_newline()
            name = report.implementation.name
            terminalreporter.section(f"lossspec timing: {one_line(name)}")
            if report.cells:
                for line in table(report.cells, report.rules.confidence, report.rules.band):
                    terminalreporter.write_line(escaped(line))
                terminalreporter.write_line("")
            page = self.conformance.writer.folder(name) / "timing.html"
            terminalreporter.write_line(f"{report.headline}.\n{one_line(str(page))}")

    def _hide_benchmarks(self) -> None:
        """Remove the cells from pytest-benchmark's table unless an option asks for that table.

        The table is 190 columns wide. Other tests stay in it, and saved results are complete.
        """
        benchmarks: Any = getattr(self.config, "_benchmarksession", None)
        groups = getattr(benchmarks, "groups", None)
        if groups is None or _asks_for_table(self.config):
            return
        others = [
            (group, [found for found in members if found["fullname"] not in self.benchmarks])
            for group, members in groups
        ]
        benchmarks.groups = [(group, members) for group, members in others if members]


#: The options of pytest-benchmark that concern its table, without their prefix.
_TABLE = (
    *("columns", "sort", "group-by", "name", "time-unit"),
    *("histogram", "verbose", "compare", "cprofile"),
)


def _asks_for_table(config: pytest.Config) -> bool:
    """Tell whether the command line or the configuration has an option about the table."""
    words = [
        *map(str, config.invocation_params.args),
        *config.getini("addopts"),
        *shlex.split(os.environ.get("PYTEST_ADDOPTS", "")),
    ]
    return any(word.startswith(f"--benchmark-{option}") for word in words for option in _TABLE)


def _tested(implementation: Implementation) -> TestedImplementation:
    name = implementation.name
    return TestedImplementation(name, implementation.version, implementation.target or name)
