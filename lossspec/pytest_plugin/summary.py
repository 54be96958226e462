"""The summary that a run prints at its end."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from lossspec.render import terminal
from lossspec.report.records import Report
from lossspec.safe_text import one_line


def write_summary(
    terminalreporter: pytest.TerminalReporter,
    reports: Iterable[Report],
    unwritten: Iterable[str],
    unjudged: Iterable[str],
) -> None:
    """Print at most one screen for each report: the counts and the first deviations.

    Args:
        terminalreporter: The terminal reporter of pytest.
        reports: The reports of the run.
        unwritten: Messages: why a report could not be written.
        unjudged: Messages: why nothing was judged of an implementation.
    """
    for report in reports:
        terminalreporter.ensure_newline()
        terminalreporter.section(f"lossspec: {one_line(report.implementation.name)}")
        # Line by line, because pytest escapes line ends in what it writes.
        for line in terminal.screen(report).splitlines():
            terminalreporter.write_line(line)
    for line in unwritten:
        terminalreporter.write_line(one_line(line), red=True)
    for line in unjudged:
        terminalreporter.write_line(one_line(line), red=line.startswith("ERROR"))
