"""Explanation for a run in which no clause of an implementation was judged."""

from __future__ import annotations

from lossspec.execution.implementation import Implementation
from lossspec.judging.plan import Plan
from lossspec.pytest_plugin.recorder import Recorder
from lossspec.report.verdict import Verdict

#: The verdicts of judged cells, and NOT_RUN, which fails the run without this explanation.
_JUDGED = (Verdict.CONFORMS, Verdict.KNOWN, Verdict.DEVIATES, Verdict.CRASH, Verdict.NOT_RUN)


def nothing_judged(plan: Plan, recorder: Recorder) -> tuple[list[str], bool]:
    """Return the implementations of which nothing was judged, and whether that is an error.

    Returns:
        A line for each such implementation, with the reasons; and True if nothing was judged of
        any implementation of the run, nor in another shard.
    """
    asked = [each for each in plan.implementations if _asked(plan, recorder, each)]
    reasons = [line for each in asked if (line := _reason(plan, recorder, each))]
    elsewhere = plan.shard is not None and bool(plan.judgeable())
    if asked and len(reasons) == len(asked) and not elsewhere:
        return [f"ERROR: {line}" for line in reasons], True
    return reasons, False


def _asked(plan: Plan, recorder: Recorder, implementation: Implementation) -> bool:
    """Tell whether this run should have judged an implementation.

    A shard is not at fault if another shard has cells of the implementation to judge.
    """
    if plan.shard is not None:
        return not plan.judgeable(implementation)
    keys = recorder.planned & recorder.cells.keys()
    return any(recorder.cells[key].implementation is implementation for key in keys)


def _reason(plan: Plan, recorder: Recorder, implementation: Implementation) -> str:
    """Return why nothing was judged of an implementation; empty if something was."""
    cells = [
        (recorder.cells[key], record)
        for key, record in recorder.records.items()
        if recorder.cells[key].implementation is implementation
    ]
    if any(record.verdict in _JUDGED for _, record in cells):
        return ""
    reasons = [plan.absences(implementation)] + [
        f"{record.id}: {record.verdict}, {record.reason}"
        for cell, record in cells
        if cell.under_test is not None
    ]
    told = [" ".join(reason.split())[:300] for reason in reasons if reason]
    more = [f"and {len(told) - 3} more"] if len(told) > 3 else []
    return f"nothing was judged of {implementation.name}: {'; '.join(told[:3] + more)}"
