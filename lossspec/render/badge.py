"""The badge of a report: the JSON that a shields endpoint reads."""

import json

from lossspec.report.records import Report
from lossspec.report.verdict import Verdict

_PASS, _WARN, _FAIL, _NONE = "0b6b3a", "8a4b00", "b3261e", "57606a"


def badge(report: Report) -> str:
    """Return the badge as JSON text: the number of failing clauses, or of conforming ones.

    The badge is grey if no clause was judged.
    """
    counts = report.counts
    if failing := len(report.failing):
        message, colour = f"{failing} of {report.total} fail", _FAIL
    elif not report.judged:
        message, colour = "nothing was judged" if report.cells else "no clause was run", _NONE
    else:
        message = f"{counts[Verdict.CONFORMS]} of {report.total} conform"
        if known := counts[Verdict.KNOWN]:
            message += f", {known} known"
        if absent := len(report.absent_losses):
            message += f", {absent} loss{'' if absent == 1 else 'es'} absent"
        colour = _WARN if counts[Verdict.INCONCLUSIVE] else _PASS
    data = {"schemaVersion": 1, "label": "lossspec", "message": message, "color": colour}
    return json.dumps(data) + "\n"
