"""What a record shows of a failure: its call, what came, what was wanted, a script."""

from __future__ import annotations

from typing import Any

from lossspec.cases.case import Case
from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation
from lossspec.execution.call_text import call_text
from lossspec.execution.checkpoint import Underway
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging import reproduction


def evidence(
    under_test: LossUnderTest, case: Case, deviation: Deviation, repeat: str | None
) -> dict[str, Any]:
    """Return the fields of a record that show a deviation and how to see it again."""
    case = deviation.case or case
    return {
        "case": case.to_json(),
        "call": call_text(under_test, case, deviation.replaced, backward=deviation.backward),
        "got": deviation.got,
        "want": deviation.want,
        "budget": deviation.budget,
        "repeat": repeat,
    }


def crash(
    under_test: LossUnderTest, call: Underway, clause: Clause, device: str
) -> tuple[dict[str, Any], str]:
    """The fields of a record and the script that show the call in which a process ended."""
    case = call.case
    invalid = bool(clause.hazard and call.replaced)
    if invalid:  # as it was called: forward only
        case = case.with_(requires_grad=())
    deviation = Deviation(
        "the process ended in this call",
        "the end of the process",
        "an error" if invalid else "a tensor",
        check="error is not None" if invalid else "error is None",
        replaced=call.replaced,
    )
    fields = {"case": case.to_json(), "call": call_text(under_test, case, call.replaced)}
    script = (
        reproduction.script(under_test, case, deviation, clause.says, device)
        if under_test.found
        else ""
    )
    return fields, script
