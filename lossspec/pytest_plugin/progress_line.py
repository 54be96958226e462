"""A progress line on the terminal, in place of pytest's character for each item."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from lossspec.judging.progress import LOOK, Line, Tally, notes, watched

#: The time between two updates of the line, in seconds.
EVERY = 0.2


def wanted(config: pytest.Config) -> bool:
    """Tell whether a progress line disturbs no other output on the terminal."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    return bool(
        type(reporter) is pytest.TerminalReporter  # pytest-sugar and others show their own progress
        and reporter.isatty
        and watched(1, os.environ)
        and config.get_verbosity() == 0
        and config.getoption("capture") != "no"
        and not config.getoption("usepdb")
        and not config.getoption("trace")
        and config.getoption("log_cli_level", None) is None
        and not config.getini("log_cli")
    )


class ProgressLine:
    """A line that shows a `Tally` while items run.

    With workers, a thread reads the notes that they write.

    Args:
        config: The configuration of pytest.
        campaign_of: A function that returns the campaign of a node id, or None for an item of
            another suite.
        places: The folder of the workers' notes; None without workers.
    """

    def __init__(
        self,
        config: pytest.Config,
        campaign_of: Callable[[str], str | None],
        places: Path | None,
    ) -> None:
        self._terminal = config.get_terminal_writer()
        self.tally = Tally()
        self._campaign_of = campaign_of
        self._places = places
        self._descriptor = os.dup(1)  # pytest's capturing redirects descriptor 1
        config.add_cleanup(lambda: os.close(self._descriptor))
        self._line = Line(self._descriptor)
        self._began: float | None = None
        self._shown = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()

    def advance(self, campaign: str, done: int, total: int, found: int) -> None:
        """Show the progress of a campaign, in cases."""
        self.tally.advance(campaign, done, total, found)
        self.show()

    def judged(self, campaign: str, deviates: bool) -> None:
        """Count the verdict on one cell of a campaign."""
        self.tally.judged(campaign, deviates)
        self.show()

    def show(self) -> None:
        """Write the line if a campaign has begun, at most once in `EVERY` seconds."""
        with self._lock:
            now = time.monotonic()
            if self._over.is_set() or not self.tally.begun or now - self._shown < EVERY:
                return
            if self._began is None:
                self._began = now
            self._shown = now
            self._terminal.flush()
            self._line.show(self.tally.text(now - self._began))

    def clear(self) -> None:
        """Remove the line, so that other output can be written there."""
        with self._lock:
            self._line.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, Any, Any]:
        """Show the line while items run."""
        thread = threading.Thread(target=self._follow, daemon=True)
        if self._places is not None:
            thread.start()
        try:
            return (yield)
        finally:
            self._over.set()
            if self._places is not None:
                thread.join()
            self.clear()

    def _follow(self) -> None:
        """Show the workers' notes until the run is over."""
        assert self._places is not None
        while not self._over.wait(LOOK):
            for note in notes(self._places):
                self.tally.advance(*note)
            self.show()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> Generator[None, tuple[str, str, Any], tuple[str, str, Any]]:
        """Write no character for an item that the line counts."""
        status = yield
        return status if self._campaign_of(report.nodeid) is None else (status[0], "", "")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Remove the line before pytest writes about an item of another suite."""
        if self._campaign_of(nodeid) is None:
            self.clear()

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_testnodedown(self) -> None:
        """Remove the line before pytest-xdist writes about a crashed worker."""
        self.clear()
