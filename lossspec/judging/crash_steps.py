"""The steps of a campaign, as its crash checkpoint knows them: a case and what is done with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lossspec.cases.case import Case
from lossspec.execution.checkpoint import SUSPECT, CrashCheckpoint, Underway
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.support import empty

#: In place of the number of a case: a stored one is replayed, one that failed is shrunk.
REPLAYED, SHRINKING = -1, -2
#: In place of a clause: the plain call, before any of them judges it.
CALL = "call"


@dataclass
class CrashSteps:
    """The step at hand, which may have ended an earlier process of the same campaign.

    checkpoint : what earlier processes ended in; None if nobody could take over from this one.
    number : of the case at hand in the stream, or what stands for one.
    """

    checkpoint: CrashCheckpoint | None = None
    number: int = REPLAYED

    def enter(self, step: str) -> bool:
        """Return whether the case may be called or judged: not if that has ended a process."""
        return self.checkpoint is None or self.checkpoint.enter(self.number, step)

    def enter_call(self, case: Case, clause_records: Mapping[str, ClauseRecord]) -> bool:
        """Return whether a case may be called; otherwise note which one ended a process."""
        caller = _record_of(CALL, clause_records)
        killer = caller.killer
        if killer is not None and empty(killer) and empty(case):
            return False  # what ends the process on one empty tensor does so on others
        if self.enter(CALL):
            return True
        caller.killer = killer or case
        return False

    def restore(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        """Note in the records which clauses have ended an earlier process."""
        if self.checkpoint is None:
            return
        ended = zip(self.checkpoint.deaths, self.checkpoint.calls, strict=True)
        for (number, step), call in ended:
            if number not in (SHRINKING, SUSPECT):
                clause_record = _record_of(step, clause_records)
                clause_record.fatal, clause_record.last_call = True, call

    def endanger(self) -> None:
        """Tell the checkpoint that from now on calls may damage the process."""
        if self.checkpoint is not None:
            self.checkpoint.endanger()

    def blame(self, number: int, clause_record: ClauseRecord) -> None:
        """Hold a later end of this process against the call that a clause found wrong."""
        if clause_record.found is not None and self.checkpoint is not None:
            finding = clause_record.found
            call = Underway(finding.deviation.case or finding.case, finding.deviation.replaced)
            self.checkpoint.blame(number, clause_record.clause.name, call)

    def leave(self) -> None:
        """Tell the checkpoint that the campaign is over."""
        if self.checkpoint is not None:
            self.checkpoint.leave()


def _record_of(step: str, clause_records: Mapping[str, ClauseRecord]) -> ClauseRecord:
    """Whose step it is: a plain call is that of the clause on it, or of any that is asked."""
    return clause_records.get("accepts" if step == CALL else step) or next(
        iter(clause_records.values())
    )
