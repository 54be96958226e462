"""The text of a failure."""

from __future__ import annotations

from lossspec.report.records import Cell
from lossspec.safe_text import block


def failure_text(record: Cell) -> str:
    """What a person needs to know of a deviation: sentence, call, numbers, command."""
    lines = [f"{record.loss}/{record.clause} on {record.device} ({record.surface}) deviates:"]
    lines += [f"  {record.says}", ""]
    fields = {"what": record.reason or None, "call": record.call or None}
    fields |= {name: getattr(record, name) for name in ("got", "want", "budget")}
    fields |= {"repeat": record.repeat or None, "script": record.script or None}
    notes = [("note", str(mishap).strip()) for mishap in record.extra.get("mishaps", ())]
    for name, text in (*fields.items(), *notes):
        if text is not None:
            lines.append(f"  {name + ':':8s} " + text.rstrip().replace("\n", "\n           "))
    return block("\n".join(lines))
