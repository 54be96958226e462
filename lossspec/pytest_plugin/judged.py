"""Hooks for the tests made by `lossspec.parametrize`: their durations and captured output.

The first test of a loss runs its campaign, which judges the clauses of the other tests too.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from lossspec.pytest_plugin.printed import Printed, Streams, shortened

#: The output of the implementation under test, by campaign.
_PRINTED = pytest.StashKey[dict[str, Printed]]()
#: The seconds that a test spent on campaigns.
_SPENT = pytest.StashKey[float]()


def _judge(item: pytest.Item) -> Any:
    """Return the judge that `lossspec.parametrize` gave to a test; None for any other test."""
    judge = getattr(getattr(item, "callspec", None), "params", {}).get("judge")
    return judge if type(judge).__module__ == "lossspec.api" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Keep the beginning of the output, and record how long the campaigns took."""
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
    """Set the duration of a test to the time of its clause, and add the output to a failure."""
    report = yield
    judge = _judge(item)
    if judge is not None and call.when == "call":
        report.duration += judge.run.seconds(judge.cell) - item.stash.get(_SPENT, 0.0)
        report.sections = [(title, shortened(text)) for title, text in report.sections]
        if report.failed:
            kept = item.config.stash.get(_PRINTED, {}).pop(judge.cell.campaign, Printed())
            report.sections += [(f"Captured {name} call", t) for name, t in kept.sections()]
    return report
