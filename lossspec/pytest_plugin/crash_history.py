"""What is known of a campaign that was given up: in which steps and at which call it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lossspec.clauses import clauses
from lossspec.execution.checkpoint import Underway, crashes, fatal_call
from lossspec.judging.cell_record import blank
from lossspec.judging.evidence import crash
from lossspec.judging.plan import CellPlan
from lossspec.judging.run import Run
from lossspec.judging.stream import of_number
from lossspec.report.records import Cell
from lossspec.report.verdict import Verdict


@dataclass(frozen=True)
class CrashHistory:
    """How the processes of a campaign ended.

    fields : of the record of each of its cells. script : shows the call in which the last process
    ended; empty if it is not known.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    script: str = ""

    @classmethod
    def read(cls, run: Run, cell: CellPlan) -> CrashHistory:
        """Read what the processes of a cell's campaign have noted."""
        ended = crashes(run.places, cell.campaign)
        if not ended:
            return cls({"reason": f"the test process ended in {cell.key}"})
        steps = ", ".join(dict.fromkeys(step for _, step in ended))
        reason = {"reason": f"the test process ended {len(ended)} times, in {steps}"}
        if cell.under_test is None:
            return cls(reason)
        number, step = ended[-1]
        call = fatal_call(run.places, cell.campaign, len(ended) - 1)
        case = of_number(cell.under_test, number, run.profile, run.seed, run.dtypes)
        call = call or (None if case is None else Underway(case))
        if call is None:
            return cls(reason)
        clause = clauses().get(step, clauses()["accepts"])
        fields, script = crash(cell.under_test, call, clause, cell.device)
        return cls(reason | fields, script)

    def record(self, cell: CellPlan) -> Cell:
        """Return the record of a cell of the campaign."""
        record = blank(cell, Verdict.CRASH, **self.fields)
        if not self.script:
            return record
        return replace(record, script=script_path(cell, "crash"))


def script_path(cell: CellPlan, what: str) -> str:
    """Return where the script of a cell lies in its report, such as of a clause or a crash."""
    name = f"{cell.loss.name}-{what}-{cell.surface}-{cell.device}.py"
    return f"repro/{name.replace(':', '-')}"
