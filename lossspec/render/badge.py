"""The badge of a report: the JSON that a shields endpoint reads."""

import json

from lossspec.verdict import Report, Verdict

_PASS, _WARN, _FAIL = "0b6b3a", "8a4b00", "b3261e"


def badge(report: Report) -> str:
    """The badge as JSON text: what fails if anything does, else how many clauses conform."""
    counts = report.counts
    total = len(report.cells) - counts[Verdict.NOT_APPLICABLE]
    if failing := len(report.failing):
        message, colour = f"{failing} of {total} fail", _FAIL
    elif not report.cells:
        message, colour = "no clause was run", _FAIL
    else:
        message = f"{counts[Verdict.CONFORMS]} of {total} conform"
        if known := counts[Verdict.KNOWN]:
            message += f", {known} known"
        colour = _WARN if counts[Verdict.INCONCLUSIVE] else _PASS
    data = {"schemaVersion": 1, "label": "lossspec", "message": message, "color": colour}
    return json.dumps(data) + "\n"
