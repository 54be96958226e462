"""The record of a cell: what its campaign has shown about one clause, as a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lossspec.execution import timeout
from lossspec.execution.call import unsupported_argument
from lossspec.execution.call_text import call_text
from lossspec.execution.checkpoint import Underway
from lossspec.execution.devices import accelerates
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging import known_deviations, reasons, reproduction
from lossspec.judging.campaign import Campaign
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.evidence import crash, evidence
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.plan import CellPlan
from lossspec.report.records import Cell, KnownEntry
from lossspec.report.verdict import Verdict


def record_of(
    cell: CellPlan, campaign: Campaign, repeat: str | None, require_all: bool
) -> tuple[Cell, str]:
    """Return the record of a cell that was judged, and the text of its script.

    repeat : the command that judges it again, if one can. require_all : whether a missing loss or
    parameter is a failure.
    """
    assert cell.under_test is not None
    clause_record = campaign.clause_records[cell.clause.name]
    told = (
        _interrupted(cell.under_test, campaign, clause_record)
        or _outdated(cell, campaign, clause_record)
        or _shown(cell, cell.under_test, clause_record, repeat)
        or _weighed(cell, cell.under_test, campaign, clause_record, require_all)
    )
    fields = _figures(cell.under_test, campaign, clause_record) | told.fields
    return blank(cell, told.verdict, told.reason, **fields), told.script


def blank(cell: CellPlan, verdict: Verdict, reason: str | None, **fields: Any) -> Cell:
    """A record with what the plan knows of a cell, and nothing else unless given."""
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
}


def stale(entry: KnownDeviation, why: str, cure: str = "remove it") -> str:
    """Return that a known deviation is not there any more, why, and what to do about it."""
    return f"the deviation listed in {entry.file or 'the list'} matches nothing: {why}; {cure}"


@dataclass(frozen=True)
class _Told:
    """What there is to say of a cell, and the text of its script."""

    verdict: Verdict
    reason: str | None
    fields: dict[str, Any] = field(default_factory=dict)
    script: str = ""


def _interrupted(
    under_test: LossUnderTest, campaign: Campaign, clause_record: ClauseRecord
) -> _Told | None:
    """A judgement that did not come to its end."""
    if clause_record.broken is not None and clause_record.found is None:
        return _Told(
            Verdict.CRASH, f"lossspec itself failed in this clause: {clause_record.broken}"
        )
    if clause_record.fatal:
        reason = "the process ended while this was judged"
        call = clause_record.last_call
        if call is None and clause_record.killer is not None:
            call = Underway(clause_record.killer)
        if call is None:
            return _Told(Verdict.CRASH, reason)
        fields, script = crash(under_test, call, clause_record.clause, campaign.device)
        return _Told(Verdict.CRASH, reason, fields, script)
    if campaign.timed_out is not None and campaign.learns(clause_record):
        case = campaign.timed_out
        fields = {"case": case.to_json(), "call": call_text(under_test, case)}
        return _Told(Verdict.CRASH, f"it did not end within {timeout.LIMIT:g} s", fields)
    return None


def _outdated(cell: CellPlan, campaign: Campaign, clause_record: ClauseRecord) -> _Told | None:
    """A listed deviation that is not there any more."""
    shipped = known_deviations.shipped(cell.implementation.name)
    # What is listed for everybody was seen on processors, and need not be so elsewhere.
    elsewhere = accelerates(cell.device) and clause_record.stale in shipped
    if clause_record.stale is not None and not elsewhere:
        if accelerates(cell.device):  # it may well hold on the processor
            why = f"its stored case does not fail on {cell.device}"
            reason = stale(clause_record.stale, why, "name its devices, or remove it")
        else:
            reason = stale(clause_record.stale, "its stored case no longer fails")
        return _Told(Verdict.DEVIATES, reason)
    for entry in campaign.known:
        missing = _lacks(cell, entry) if entry.clause == cell.clause.name else None
        if missing is not None:
            return _Told(Verdict.DEVIATES, stale(entry, f"nothing here takes {missing}"))
    return None


def _shown(
    cell: CellPlan, under_test: LossUnderTest, clause_record: ClauseRecord, repeat: str | None
) -> _Told | None:
    """What a case has shown: a deviation that is new, listed or inherited."""
    if clause_record.found is not None:
        case, deviation = clause_record.found
        script = ""
        if deviation.check is not None and under_test.found:
            try:
                script = reproduction.script(
                    under_test, case, deviation, cell.clause.says, cell.device
                )
            except Exception as error:  # of lossspec itself: the deviation is there all the same
                why = f"{type(error).__name__}: {error}"
                clause_record.mishaps.append(f"no script could be written: {why}")
        fields = evidence(under_test, case, deviation, repeat)
        return _Told(Verdict.DEVIATES, deviation.what, fields, script)
    if clause_record.known is not None:
        known, case, deviation = clause_record.known
        fields = evidence(under_test, case, deviation, repeat)
        fields["deviation"] = KnownEntry(known.reason, known.link, known.file)
        return _Told(Verdict.KNOWN, known.reason, fields)
    if clause_record.shared is not None:
        torchs, case, deviation = clause_record.shared
        reason = f"inherited: {torchs.implementation} does the same on the same call"
        return _Told(Verdict.KNOWN, reason, evidence(under_test, case, deviation, repeat))
    return None


def _weighed(
    cell: CellPlan,
    under_test: LossUnderTest,
    campaign: Campaign,
    clause_record: ClauseRecord,
    require_all: bool,
) -> _Told:
    """Whether cases that have shown nothing are enough to say that it conforms."""
    profile = campaign.profile
    lacks = reasons.lacking(under_test, campaign.support)
    fails = clause_record.unsound and not clause_record.sound and clause_record.lacks is None
    if not clause_record.examples and fails and not (require_all and lacks):
        return _Told(Verdict.INCONCLUSIVE, reasons.call_fails(campaign.clause_records))
    if not clause_record.examples and (lacks or clause_record.lacks):
        verdict = Verdict.DEVIATES if require_all else Verdict.UNSUPPORTED
        return _Told(verdict, clause_record.lacks or reasons.no_case(lacks))
    if not clause_record.examples:
        return _Told(Verdict.INCONCLUSIVE, "no case was about this clause")
    enough = cell.clause.chosen or cell.clause.enough or profile.informative
    wanted = min(profile.informative, enough)
    if clause_record.informative < wanted:
        reason = (
            f"{clause_record.informative} of {clause_record.examples} cases could have told "
            f"right from wrong; profile {profile.name} asks for {wanted}"
        )
        return _Told(Verdict.INCONCLUSIVE, reason)
    if require_all and lacks:
        return _Told(Verdict.DEVIATES, f"--require-all, and {'; '.join(lacks)}")
    return _Told(Verdict.CONFORMS, None)


def _lacks(cell: CellPlan, entry: KnownDeviation) -> str | None:
    """What every implementation that an entry is about lacks to run its stored case."""
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
    """What was counted and measured, whatever the verdict."""
    extra: dict[str, Any] = dict(clause_record.figures)
    if campaign.support.unsupported:
        extra["unsupported"] = sorted(campaign.support.unsupported)
    if campaign.support.refused:
        extra["unsupported_dtypes"] = campaign.support.refused
    if clause_record.lacks is not None:
        extra["not_supported"] = clause_record.lacks
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
        "worst": clause_record.worst,
        "seconds": round(clause_record.seconds + clause_record.share, 4),
        "extra": extra,
    }
