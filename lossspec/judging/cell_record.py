"""The record of a cell: the verdict on one clause, with the evidence from its campaign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lossspec.excuse import Excuse
from lossspec.execution import timeout
from lossspec.execution.call import unsupported_argument
from lossspec.execution.call_text import call_text
from lossspec.execution.checkpoint import Underway
from lossspec.execution.devices import accelerates
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging import known_deviations, reasons, reproduction
from lossspec.judging.campaign import Campaign
from lossspec.judging.cause import cause_of
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.evidence import crash, evidence
from lossspec.judging.finding import Finding
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.plan import CellPlan
from lossspec.judging.verdict import Facts, Judged, verdict
from lossspec.report.causes import telling
from lossspec.report.records import Cell, KnownEntry, cell_id
from lossspec.report.verdict import Verdict


def record_of(
    cell: CellPlan, campaign: Campaign, repeat: str | None, require_all: bool
) -> tuple[Cell, str]:
    """Return the record of a judged cell, and the text of its reproduction script.

    Args:
        cell: The cell.
        campaign: Its campaign, which is over.
        repeat: The command that judges the cell again, if there is one.
        require_all: Whether a missing loss or parameter is a deviation.

    Returns:
        The record and the script. The script is empty if there is none.
    """
    assert cell.under_test is not None
    clause_record = campaign.clause_records[cell.clause.name]
    judged = verdict(clause_record, _facts(cell, campaign, clause_record, require_all))
    fields, script = _shown(cell, campaign, clause_record, judged, repeat)
    fields = _figures(cell.under_test, campaign, clause_record) | fields
    return blank(cell, judged.verdict, judged.reason, **fields), script


def shows_cause(campaign: Campaign, record: Cell) -> str | None:
    """Return the id of the cell in a campaign that shows the cause of a record best, if any.

    Args:
        campaign: The campaign, which is over.
        record: The record of a cell that deviates.
    """
    if record.cause is None:
        return None
    for clause_record in sorted(
        campaign.clause_records.values(), key=lambda each: telling(each.clause.name)
    ):
        found = clause_record.found
        if found and _cause(campaign.under_test, found) == record.cause:
            name = clause_record.clause.name
            return cell_id(record.loss, name, record.surface, record.device)
    return None


def blank(cell: CellPlan, verdict: Verdict, reason: str | None, **fields: Any) -> Cell:
    """Return a record with the fields that the plan knows and those given; the rest is empty.

    Args:
        cell: The cell.
        verdict: The verdict on it.
        reason: The reason for the verdict.
        **fields: Further fields of `Cell`.
    """
    extra = {"aliases": list(cell.clause.aliases)} if cell.clause.aliases else {}
    record = Cell(
        **{
            "id": cell.id,
            "loss": cell.loss.name,
            "surface": cell.surface,
            "clause": cell.clause.name,
            "theme": cell.clause.theme,
            "device": cell.device,
            "says": cell.clause.says,
            "verdict": verdict,
            "reason": reason,
            **_EMPTY,
            **({} if cell.under_test is not None else {"extra": {"absent": True}}),
            **fields,
        }
    )
    return replace(record, extra={**record.extra, **extra}) if extra else record


_EMPTY: dict[str, Any] = {
    "dtypes": (),
    "examples": 0,
    "informative": 0,
    "excused": {},
    "worst": None,
    "case": None,
    "call": None,
    "got": None,
    "want": None,
    "budget": None,
    "repeat": None,
    "script": None,
    "deviation": None,
    "seconds": 0.0,
    "extra": {},
    "cause": None,
}


def stale(entry: KnownDeviation, why: str, cure: str = "remove it") -> str:
    """Return the reason for a verdict on a known deviation that no longer applies.

    Args:
        entry: The known deviation.
        why: Why it does not apply.
        cure: The advice to the user.
    """
    return f"the known deviation in {entry.file or 'the list'} does not apply: {why}; {cure}"


def _facts(
    cell: CellPlan, campaign: Campaign, clause_record: ClauseRecord, require_all: bool
) -> Facts:
    """Return the facts about a campaign that the verdict on a clause depends on."""
    assert cell.under_test is not None
    endless = campaign.timed_out is not None and campaign.learns(clause_record)
    return Facts(
        campaign.profile,
        reasons.lacking(cell.under_test, campaign.support),
        reasons.call_fails(campaign.clause_records),
        _outdated(cell, campaign, clause_record),
        f"a call did not end within {timeout.LIMIT:g} s" if endless else None,
        require_all,
    )


def _outdated(cell: CellPlan, campaign: Campaign, clause_record: ClauseRecord) -> str | None:
    """Return the reason if a known deviation no longer applies."""
    shipped = known_deviations.shipped(cell.implementation.name)
    # Shipped known deviations were observed on CPUs and may not occur on accelerators.
    elsewhere = accelerates(cell.device) and clause_record.stale in shipped
    if clause_record.stale is not None and not elsewhere:
        if accelerates(cell.device):  # the case may still fail on the CPU
            why = f"its stored case does not fail on {cell.device}"
            return stale(clause_record.stale, why, "add its `device` to `when`, or remove it")
        otherwise = clause_record.otherwise
        if otherwise is not None:
            why = f"its stored case fails in another way ({otherwise.what}: got {otherwise.got})"
            return stale(clause_record.stale, why, "correct its `shows`, or remove it")
        return stale(clause_record.stale, "its stored case no longer fails")
    for entry in campaign.known:
        missing = _lacks(cell, entry) if entry.clause == cell.clause.name else None
        if missing is not None:
            return stale(entry, f"the implementation does not take {missing}")
    return None


def _shown(
    cell: CellPlan,
    campaign: Campaign,
    clause_record: ClauseRecord,
    judged: Judged,
    repeat: str | None,
) -> tuple[dict[str, Any], str]:
    """Return the fields of a record that show a finding or a crash, and the text of its script."""
    assert cell.under_test is not None
    if judged.finding is None:
        return _of_crash(cell, campaign, clause_record, judged)
    case, deviation = judged.finding.case, judged.finding.deviation
    fields = evidence(cell.under_test, case, deviation, repeat)
    if judged.verdict is Verdict.DEVIATES:
        fields["cause"] = _cause(cell.under_test, judged.finding)
    entry = judged.finding.by
    if isinstance(entry, KnownDeviation):
        fields["deviation"] = KnownEntry(entry.reason, entry.link, entry.file)
    script = ""
    if judged.verdict is Verdict.DEVIATES and deviation.check and cell.under_test.found:
        try:
            script = reproduction.script(
                cell.under_test, case, deviation, cell.clause.says, cell.device
            )
        except Exception as error:  # an error in lossspec must not hide the deviation
            why = f"{type(error).__name__}: {error}"
            clause_record.mishaps.append(f"lossspec could not write the reproduction script: {why}")
    return fields, script


def _of_crash(
    cell: CellPlan, campaign: Campaign, clause_record: ClauseRecord, judged: Judged
) -> tuple[dict[str, Any], str]:
    """Return fields and script for the call that crashed or reached its timeout, if known."""
    assert cell.under_test is not None
    if judged.verdict is not Verdict.CRASH or clause_record.broken is not None:
        return {}, ""
    if clause_record.fatal:
        call = clause_record.last_call
        if call is None and clause_record.killer is not None:
            call = Underway(clause_record.killer)
        if call is None:
            return {}, ""
        return crash(cell.under_test, call, clause_record.clause, campaign.device)
    case = campaign.timed_out
    if case is None:
        return {}, ""
    return {"case": case.to_json(), "call": call_text(cell.under_test, case)}, ""


def _lacks(cell: CellPlan, entry: KnownDeviation) -> str | None:
    """Return the argument of the stored case that no surface of the implementation takes, if any.

    Only the surfaces that the entry applies to count.
    """
    implementation = cell.implementation
    lacks = [
        unsupported_argument(under_test, entry.case)
        for under_test in implementation.losses_under_test(cell.loss)
        if entry.holds(implementation.version, cell.device, under_test.surface)
    ]
    return None if None in lacks else lacks[0]


def _figures(
    under_test: LossUnderTest, campaign: Campaign, clause_record: ClauseRecord
) -> dict[str, Any]:
    """Return the counted and measured fields of a record, which every verdict has."""
    extra: dict[str, Any] = dict(clause_record.figures)
    asked = {dtype: dict(n) for dtype, n in sorted(clause_record.asked.items()) if n}
    if asked:
        extra["asked"] = asked
    if clause_record.skipped:
        extra["skipped"] = dict(clause_record.skipped)
    if campaign.support.unsupported:
        extra["unsupported"] = sorted(campaign.support.unsupported)
    if campaign.support.refused:
        extra["unsupported_dtypes"] = campaign.support.refused
    if clause_record.lacks is not None:
        extra["not_supported"] = clause_record.lacks
    if clause_record.shown[1:]:
        cause = _cause(under_test, clause_record.shown[0])
        extra["further"] = [_further(under_test, f, cause) for f in clause_record.shown[1:]]
    if clause_record.blocked:
        extra["blocked"] = dict(clause_record.blocked)
    if clause_record.mishaps:
        extra["mishaps"] = clause_record.mishaps
    if campaign.support.unimplemented:
        extra["not_implemented"] = sorted(campaign.support.unimplemented)
    if clause_record.worst_case is not None:
        extra["worst_case"] = call_text(under_test, clause_record.worst_case)[:2000]
    return {
        "dtypes": tuple(sorted(clause_record.dtypes)),
        "examples": clause_record.examples,
        "informative": clause_record.informative,
        "excused": _excused(clause_record),
        "worst": clause_record.worst,
        "seconds": round(clause_record.seconds + clause_record.share, 4),
        "extra": extra,
    }


def _cause(under_test: LossUnderTest, finding: Finding) -> str | None:
    return cause_of(under_test.loss, finding.case, finding.deviation)


def _excused(clause_record: ClauseRecord) -> dict[str, int]:
    """Return the number of excused cases for each reason, the most frequent first.

    Cases that the clause is not about are left out, since they need no excuse.
    """
    counted = clause_record.excused.most_common()
    return {excuse.value: n for excuse, n in counted if excuse is not Excuse.NOT_ABOUT}


def _further(under_test: LossUnderTest, finding: Finding, first: str | None) -> dict[str, Any]:
    """Return the fields of a further deviation that a record shows.

    Args:
        under_test: The implementation of the loss.
        finding: The further deviation.
        first: The cause of the first deviation of the record.
    """
    shown = evidence(under_test, finding.case, finding.deviation, None)
    return {
        "reason": finding.deviation.what,
        "cause": cause_of(under_test.loss, finding.case, finding.deviation, first),
        **{n: shown[n] for n in ("call", "got", "want", "case")},
    }
