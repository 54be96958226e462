"""The history of a campaign that was given up: the steps and the call that ended its processes."""

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

    Attributes:
        fields: Fields for the record of each cell of the campaign.
        script: A script that repeats the call in which the last process ended; empty if that call
            is not known.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    script: str = ""

    @classmethod
    def read(cls, run: Run, cell: CellPlan) -> CrashHistory:
        """Read the crash checkpoints of a cell's campaign."""
        ended = crashes(run.places, cell.campaign)
        if not ended:
            return cls({"reason": f"the test process ended while it judged {cell.key}"})
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
    """Return the path of a cell's reproduction script, relative to the folder of its report.

    Args:
        cell: The cell.
        what: The name of a clause, or "crash".
    """
    name = f"{cell.loss.name}-{what}-{cell.surface}-{cell.device}.py"
    return f"repro/{name.replace(':', '-')}"
