"""The evidence of a failure in a record: the call, the wrong and the right result, a script."""

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
    """Return the fields of a record that show a deviation and how to repeat it.

    Args:
        under_test: The implementation of the loss.
        case: The case that deviates.
        deviation: The deviation.
        repeat: The command that judges the cell again, if there is one.
    """
    case = deviation.case or case
    return {
        "case": case.to_json(),
        "call": call_text(
            under_test,
            case,
            deviation.replaced,
            backward=deviation.backward,
            graph=deviation.graph,
        ),
        "got": deviation.got,
        "want": deviation.want,
        "budget": deviation.budget,
        "repeat": repeat,
    }


def crash(
    under_test: LossUnderTest, call: Underway, clause: Clause, device: str
) -> tuple[dict[str, Any], str]:
    """Return the fields of a record that show the call in which a process ended, and a script.

    Args:
        under_test: The implementation of the loss.
        call: The call.
        clause: The clause that made it.
        device: The device of the tensors.

    Returns:
        The fields, and the reproduction script. The script is empty if the implementation cannot be
        imported.
    """
    case = call.case
    invalid = bool(clause.hazard and call.replaced)
    if invalid:  # invalid calls are made without a backward
        case = case.with_(requires_grad=())
    deviation = Deviation(
        "the process ended during this call",
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
