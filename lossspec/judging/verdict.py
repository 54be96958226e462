"""Turn campaigns into report cells: shared by the suite's items and `lossspec.check`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lossspec.cases.case import Case
from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation
from lossspec.errors import SpecError
from lossspec.execution import timeout
from lossspec.execution.call import unsupported_argument
from lossspec.execution.call_text import call_text
from lossspec.execution.checkpoint import CrashCheckpoint, Underway
from lossspec.execution.devices import accelerates
from lossspec.execution.implementation import LossUnderTest
from lossspec.implementations.counterpart import torch_counterpart
from lossspec.judging import known_deviations, reasons, reproduction
from lossspec.judging.campaign import Campaign, OnProgress
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.judging.plan import CellPlan
from lossspec.judging.profiles import Profile
from lossspec.report.records import Cell, KnownEntry
from lossspec.report.verdict import Verdict
from lossspec.safe_text import one_line

#: The implementations whose own deviations are torch's; whatever else has them, inherited them.
TORCH = ("torch.nn", "torch.nn.functional")


@dataclass
class Run:
    """The settings of a run, and the campaigns that it has made so far.

    require_all : whether a missing loss or parameter is a failure. known : entries of deviations
    files beyond the shipped ones, which `ship` turns off. options : what a repeated run needs too.
    places : a directory in which campaigns note where they are, for whoever takes them over.
    on_progress : called by each campaign with its cases done, its cases in all and its deviations.
    after_step : called by each campaign after every call and judgement. around : makes a context
    for each campaign, of which it is given the name. spent : the seconds that all campaigns took.
    """

    profile: Profile
    seed: int = 0
    dtypes: tuple[str, ...] | None = None
    require_all: bool = False
    known: Sequence[KnownDeviation] = ()
    options: tuple[str, ...] = ()
    ship: bool = True
    places: Path | None = None
    on_progress: OnProgress | None = None
    after_step: Callable[[], None] = lambda: None
    around: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
    spent: float = 0.0
    _campaigns: dict[str, tuple[Campaign, dict[str, ClauseRecord]]] = field(default_factory=dict)
    #: By loss, what is wrong with its spec: no campaign of it is begun again.
    _at_fault: dict[str, SpecError] = field(default_factory=dict)

    def judge(self, cell: CellPlan, beside: Iterable[CellPlan]) -> tuple[Cell, str]:
        """The record of one cell and the text of its script, running its campaign if need be.

        beside : the cells of the same campaign that will be asked for too. SpecError where the spec
        cannot be judged by.
        """
        if cell.under_test is None:
            verdict = Verdict.DEVIATES if self.require_all else Verdict.UNSUPPORTED
            name = cell.loss.module if cell.surface == "class" else cell.loss.name
            reason = f"{one_line(cell.implementation.name)} has no {name}"
            for entry in self._listed(cell):
                if entry.clause == cell.clause.name:
                    return blank(cell, Verdict.DEVIATES, _stale(entry, reason)), ""
            return blank(cell, verdict, reason), ""
        if cell.clause.lacks is not None:
            return blank(cell, Verdict.UNSUPPORTED, cell.clause.lacks), ""
        if cell.loss.name in self._at_fault:
            raise self._at_fault[cell.loss.name]
        if cell.campaign not in self._campaigns:
            # A campaign's cases are its memory: when its cells are done, nobody needs them again.
            self._campaigns.clear()
            try:
                ran = self._run(cell, [c.clause for c in beside if c.applies])
            except SpecError as error:
                self._at_fault[cell.loss.name] = error
                raise
            self._campaigns[cell.campaign] = ran
        campaign, clause_records = self._campaigns[cell.campaign]
        return self._record(cell, campaign, clause_records[cell.clause.name])

    def has(self, campaign: str) -> bool:
        """Whether the campaign was made, and not yet forgotten for another."""
        return campaign in self._campaigns

    def seconds(self, cell: CellPlan) -> float:
        """Return what the clause of a cell took in its campaign, 0 if there was none."""
        _, clause_records = self._campaigns.get(cell.campaign, (None, {}))
        clause_record = clause_records.get(cell.clause.name)
        return 0.0 if clause_record is None else clause_record.seconds + clause_record.share

    def _run(
        self, cell: CellPlan, clauses: Sequence[Clause]
    ) -> tuple[Campaign, dict[str, ClauseRecord]]:
        assert cell.under_test is not None
        campaign = Campaign(
            cell.under_test,
            [clause for clause in clauses if clause.lacks is None],
            self.profile,
            self.seed,
            cell.device,
            self.dtypes,
            self._listed(cell),
            None
            if cell.implementation.name in TORCH
            else torch_counterpart(cell.loss, cell.surface),
            checkpoint=None if self.places is None else CrashCheckpoint(self.places, cell.campaign),
            on_progress=self.on_progress,
            after_step=self.after_step,
        )
        start = time.perf_counter()
        try:
            with self.around(cell.campaign):
                return campaign, campaign.run()
        finally:
            self.spent += time.perf_counter() - start

    def _listed(self, cell: CellPlan) -> list[KnownDeviation]:
        """The known deviations that are about the cell's loss, here."""
        implementation = cell.implementation
        shipped = known_deviations.shipped(implementation.name) if self.ship else []
        return [
            entry
            for entry in (*shipped, *self.known)
            if entry.loss == cell.loss.name
            and entry.holds(implementation.version, cell.device, cell.surface)
            and (self.dtypes is None or entry.touches(self.dtypes))
        ]

    def _record(
        self, cell: CellPlan, campaign: Campaign, clause_record: ClauseRecord
    ) -> tuple[Cell, str]:
        assert cell.under_test is not None
        told = (
            self._interrupted(cell.under_test, campaign, clause_record)
            or self._outdated(cell, campaign, clause_record)
            or self._shown(cell, cell.under_test, clause_record)
            or self._weighed(cell, cell.under_test, campaign, clause_record)
        )
        fields = _figures(cell.under_test, campaign, clause_record) | told.fields
        return blank(cell, told.verdict, told.reason, **fields), told.script

    def _interrupted(
        self, under_test: LossUnderTest, campaign: Campaign, clause_record: ClauseRecord
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

    def _outdated(
        self, cell: CellPlan, campaign: Campaign, clause_record: ClauseRecord
    ) -> _Told | None:
        """A listed deviation that is not there any more."""
        shipped = known_deviations.shipped(cell.implementation.name)
        # What is listed for everybody was seen on processors, and need not be so elsewhere.
        elsewhere = accelerates(cell.device) and clause_record.stale in shipped
        if clause_record.stale is not None and not elsewhere:
            if accelerates(cell.device):  # it may well hold on the processor
                why = f"its stored case does not fail on {cell.device}"
                reason = _stale(clause_record.stale, why, "name its devices, or remove it")
            else:
                reason = _stale(clause_record.stale, "its stored case no longer fails")
            return _Told(Verdict.DEVIATES, reason)
        for entry in campaign.known:
            missing = self._lacks(cell, entry) if entry.clause == cell.clause.name else None
            if missing is not None:
                return _Told(Verdict.DEVIATES, _stale(entry, f"nothing here takes {missing}"))
        return None

    def _shown(
        self, cell: CellPlan, under_test: LossUnderTest, clause_record: ClauseRecord
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
                except (
                    Exception
                ) as error:  # of lossspec itself: the deviation is there all the same
                    why = f"{type(error).__name__}: {error}"
                    clause_record.mishaps.append(f"no script could be written: {why}")
            fields = self._evidence(cell, under_test, case, deviation)
            return _Told(Verdict.DEVIATES, deviation.what, fields, script)
        if clause_record.known is not None:
            known, case, deviation = clause_record.known
            fields = self._evidence(cell, under_test, case, deviation)
            fields["deviation"] = KnownEntry(known.reason, known.link, known.file)
            return _Told(Verdict.KNOWN, known.reason, fields)
        if clause_record.shared is not None:
            torchs, case, deviation = clause_record.shared
            reason = f"inherited: {torchs.implementation} does the same on the same call"
            return _Told(Verdict.KNOWN, reason, self._evidence(cell, under_test, case, deviation))
        return None

    def _weighed(
        self,
        cell: CellPlan,
        under_test: LossUnderTest,
        campaign: Campaign,
        clause_record: ClauseRecord,
    ) -> _Told:
        """Whether cases that have shown nothing are enough to say that it conforms."""
        _, clause_records = self._campaigns[cell.campaign]
        lacks = reasons.lacking(under_test, campaign.support)
        fails = clause_record.unsound and not clause_record.sound and clause_record.lacks is None
        if not clause_record.examples and fails and not (self.require_all and lacks):
            return _Told(Verdict.INCONCLUSIVE, reasons.call_fails(clause_records))
        if not clause_record.examples and (lacks or clause_record.lacks):
            verdict = Verdict.DEVIATES if self.require_all else Verdict.UNSUPPORTED
            return _Told(verdict, clause_record.lacks or reasons.no_case(lacks))
        if not clause_record.examples:
            return _Told(Verdict.INCONCLUSIVE, "no case was about this clause")
        enough = cell.clause.chosen or cell.clause.enough or self.profile.informative
        wanted = min(self.profile.informative, enough)
        if clause_record.informative < wanted:
            reason = (
                f"{clause_record.informative} of {clause_record.examples} cases could have told "
                f"right from wrong; profile {self.profile.name} asks for {wanted}"
            )
            return _Told(Verdict.INCONCLUSIVE, reason)
        if self.require_all and lacks:
            return _Told(Verdict.DEVIATES, f"--require-all, and {'; '.join(lacks)}")
        return _Told(Verdict.CONFORMS, None)

    def _lacks(self, cell: CellPlan, entry: KnownDeviation) -> str | None:
        """What every implementation that an entry is about lacks to run its stored case."""
        implementation = cell.implementation
        lacks = [
            unsupported_argument(under_test, entry.case)
            for under_test in implementation.losses_under_test(cell.loss)
            if entry.holds(implementation.version, cell.device, under_test.surface)
        ]
        return None if None in lacks else lacks[0]

    def _evidence(
        self, cell: CellPlan, under_test: LossUnderTest, case: Case, deviation: Deviation
    ) -> dict[str, Any]:
        case = deviation.case or case
        return {
            "case": case.to_json(),
            "call": call_text(under_test, case, deviation.replaced, backward=deviation.backward),
            "got": deviation.got,
            "want": deviation.want,
            "budget": deviation.budget,
            "repeat": self.repeat(cell),
        }

    def repeat(self, cell: CellPlan) -> str | None:
        """The command that draws the same cases again and judges this clause alone, if one can."""
        if not cell.implementation.target:
            return None
        words = [
            "lossspec",
            "run",
            cell.implementation.name,
            f"--loss={cell.loss.name}",
            f"--clause={cell.clause.name}",
            f"--profile={self.profile.name}",
            f"--seed={self.seed}",
        ]
        if cell.device != "cpu":
            words.append(f"--device={cell.device}")
        if self.dtypes:
            words.append(f"--dtype={','.join(self.dtypes)}")
        return shlex.join([*words, *self.options])


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


@dataclass(frozen=True)
class _Told:
    """What there is to say of a cell, and the text of its script."""

    verdict: Verdict
    reason: str | None
    fields: dict[str, Any] = field(default_factory=dict)
    script: str = ""


def _figures(
    under_test: LossUnderTest, campaign: Campaign, clause_record: ClauseRecord
) -> dict[str, Any]:
    """What was counted and measured, whatever the verdict."""
    extra: dict[str, Any] = dict(clause_record.figures)
    if campaign.support.unsupported:
        extra["unsupported"] = sorted(campaign.support.unsupported)
    if campaign.support.refused:
        extra["unsupported_dtypes"] = campaign.support.refused
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


def blank(cell: CellPlan, verdict: Verdict, reason: str | None, **fields: Any) -> Cell:
    """A record with what the plan knows of a cell, and nothing else unless given."""
    return Cell(
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


def _stale(entry: KnownDeviation, why: str, cure: str = "remove it") -> str:
    return f"the deviation listed in {entry.file or 'the list'} matches nothing: {why}; {cure}"
