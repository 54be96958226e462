"""The failure message of a cell."""

from __future__ import annotations

from lossspec.report.causes import unlike
from lossspec.report.records import Cell
from lossspec.safe_text import block


def failure_text(record: Cell, shown_by: str | None = None) -> str:
    """Return the failure message of a cell: clause, cause, call, numbers and commands.

    Args:
        record: The record of a failing cell.
        shown_by: The id of the cell that the report shows for the same cause.
    """
    lines = [f"{record.loss}/{record.clause} on {record.device} ({record.surface}) deviates:"]
    lines += [f"  {record.says}", ""]
    cause = record.cause
    if cause is not None and shown_by not in (None, record.id):
        cause += f"; see {shown_by}"
    fields = {"what": record.reason or None, "cause": cause, "call": record.call or None}
    fields |= {name: getattr(record, name) for name in ("got", "want", "budget")}
    fields |= {"repeat": record.repeat or None, "script": record.script or None}
    others = [("and", other.told(with_call=True)) for other in unlike(record)]
    notes = [("note", str(mishap).strip()) for mishap in record.extra.get("mishaps", ())]
    for name, text in (*fields.items(), *others, *notes):
        if text is not None:
            lines.append(f"  {name + ':':8s} " + text.rstrip().replace("\n", "\n           "))
    return block("\n".join(lines))
