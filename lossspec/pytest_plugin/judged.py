"""Hooks for the tests that `lossspec.parametrize` makes: their time, and what is printed in them.

The first test of a loss runs its campaign, which judges the clauses of other tests too.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from lossspec.pytest_plugin.printed import Printed, Streams, shortened

#: By campaign, what was printed while it ran.
_PRINTED = pytest.StashKey[dict[str, Printed]]()
#: The seconds that campaigns took during a test.
_SPENT = pytest.StashKey[float]()


def _judge(item: pytest.Item) -> Any:
    """Return what `lossspec.parametrize` gave to a test, None for any other test."""
    judge = getattr(getattr(item, "callspec", None), "params", {}).get("judge")
    return judge if type(judge).__module__ == "lossspec.api" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Keep the beginning of what is printed, and note how long campaigns took."""
    judge = _judge(item)
    if judge is None:
        return (yield)
    capture = item.config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        streams = Streams(capture.read_global_capture)
        printed = item.config.stash.setdefault(_PRINTED, {})

        def keeping(campaign: str) -> AbstractContextManager[None]:
            return streams.kept_in(printed.setdefault(campaign, Printed()))

        judge.run.around, judge.run.after_step = keeping, streams.drain
    before = judge.run.spent
    try:
        return (yield)
    finally:
        item.stash[_SPENT] = judge.run.spent - before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give a test the time of its own clause, and show what was printed under a failure."""
    report = yield
    judge = _judge(item)
    if judge is not None and call.when == "call":
        report.duration += judge.run.seconds(judge.cell) - item.stash.get(_SPENT, 0.0)
        report.sections = [(title, shortened(text)) for title, text in report.sections]
        if report.failed:
            kept = item.config.stash.get(_PRINTED, {}).pop(judge.cell.campaign, Printed())
            report.sections += [(f"Captured {name} call", t) for name, t in kept.sections()]
    return report
