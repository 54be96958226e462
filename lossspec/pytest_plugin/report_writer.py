"""The writer of the reports of a run, one folder for each implementation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lossspec.judging.environment import Surroundings
from lossspec.judging.plan import CellPlan, Plan
from lossspec.judging.run import Run
from lossspec.render import render_all
from lossspec.report.files import replace_file
from lossspec.report.folders import folders
from lossspec.report.records import Cell, Report, Selection, TestedImplementation


class ReportWriter:
    """Writer of one report for each implementation.

    Args:
        plan: The plan of the run.
        run: The run.
        surroundings: The environment of the run.
        directory: The directory that holds a folder for each report.
        invoked_in: The directory in which the run was started.
    """

    def __init__(
        self, plan: Plan, run: Run, surroundings: Surroundings, directory: Path, invoked_in: Path
    ) -> None:
        self.plan = plan
        self.run = run
        self.surroundings = surroundings
        self.directory = directory
        self.invoked_in = invoked_in
        self._folders = folders([implementation.name for implementation in plan.implementations])
        #: The keys of the cells whose scripts have been written since the folders were emptied.
        self._scripted: set[str] = set()

    def reports(
        self, cells: Mapping[str, CellPlan], records: Mapping[str, Cell], empty: bool = False
    ) -> list[Report]:
        """Return a report for each implementation that has records.

        Args:
            cells: The planned cells, by key.
            records: The records, by the key of their cell.
            empty: Also return reports of implementations without records.
        """
        plan, environment = self.plan, self.surroundings.environment(self.plan.devices)
        selection = Selection(plan.losses, plan.clauses, self.run.dtypes, plan.devices, plan.shard)
        reports = []
        for implementation in plan.implementations:
            found = tuple(
                record
                for key, record in records.items()
                if cells[key].implementation is implementation
            )
            name = implementation.name
            tested = TestedImplementation(
                name, implementation.version, implementation.target or name
            )
            if found or empty:
                reports.append(
                    Report(
                        implementation=tested,
                        environment=environment,
                        profile=self.run.profile.name,  # type: ignore[arg-type]  # Report checks it
                        seed=self.run.seed,
                        selection=selection,
                        cells=found,
                    )
                )
        return reports

    def folder(self, name: str) -> Path:
        """Return the folder of an implementation's report, relative to the directory of the run."""
        return Path(os.path.relpath(self.directory / self._folders[name], self.invoked_in))

    def problem(self, name: str, error: OSError) -> str:
        """Return the error message for a report that cannot be written."""
        return (
            f"--reports: cannot write into {self.folder(name)} ({error.strerror or error}); "
            "choose another directory"
        )

    def write(self, report: Report, scripts: Mapping[str, str]) -> None:
        """Replace the report of an implementation: artifact, scripts and pages.

        Args:
            report: The report.
            scripts: The reproduction scripts, by the key of their cell.
        """
        folder = self.invoked_in / self.folder(report.implementation.name)
        for old in (folder / "repro").glob("*.py"):
            old.unlink()
        self._scripted.clear()
        self.write_artifact(report, scripts)
        render_all(report, folder)

    def write_artifact(self, report: Report, scripts: Mapping[str, str]) -> None:
        """Write the artifact of an implementation and its new scripts, but no pages.

        Args:
            report: The report.
            scripts: The reproduction scripts, by the key of their cell.
        """
        name = report.implementation.name
        folder = self.invoked_in / self.folder(name)
        for cell in report.cells:
            key = f"{name}:{cell.id}"
            if cell.script and key not in self._scripted:
                replace_file(folder / cell.script, scripts[key])
                self._scripted.add(key)
        report.write(folder / "conformance.json")
