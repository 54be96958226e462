"""The steps of a campaign in its crash checkpoint: the number of a case, and a clause or a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lossspec.cases.case import Case
from lossspec.execution.checkpoint import SUSPECT, CrashCheckpoint, Underway
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.support import empty

#: These replace the number of a case while a stored case is replayed, or a failing case is shrunk.
REPLAYED, SHRINKING = -1, -2
#: This replaces the clause while the call of a case is made, before any clause judges it.
CALL = "call"


@dataclass
class CrashSteps:
    """The current step of a campaign, and the steps that ended earlier processes of it.

    Attributes:
        checkpoint: The crash checkpoint, which knows the steps that ended earlier processes. None
            if no replacement worker can take over.
        number: The number of the current case, `REPLAYED` or `SHRINKING`.
    """

    checkpoint: CrashCheckpoint | None = None
    number: int = REPLAYED

    def enter(self, step: str) -> bool:
        """Record the next step with the current case.

        Args:
            step: The name of a clause, or `CALL`.

        Returns:
            False if an earlier process ended in this step, which must then be skipped.
        """
        return self.checkpoint is None or self.checkpoint.enter(self.number, step)

    def enter_call(self, case: Case, clause_records: Mapping[str, ClauseRecord]) -> bool:
        """Record that the call of a case comes next.

        Args:
            case: The case.
            clause_records: The records of the clauses that judge it.

        Returns:
            False if an earlier process ended in this call, or in a similar one with an empty
            tensor. The call must then be skipped.
        """
        caller = _record_of(CALL, clause_records)
        killer = caller.killer
        if killer is not None and empty(killer) and empty(case):
            return False  # other empty tensors are likely to crash the process too
        if self.enter(CALL):
            return True
        caller.killer = killer or case
        return False

    def restore(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        """Mark the clauses in whose steps earlier processes ended."""
        if self.checkpoint is None:
            return
        ended = zip(self.checkpoint.deaths, self.checkpoint.calls, strict=True)
        for (number, step), call in ended:
            if number not in (SHRINKING, SUSPECT):
                clause_record = _record_of(step, clause_records)
                clause_record.fatal, clause_record.last_call = True, call

    def endanger(self) -> None:
        """Tell the checkpoint that calls from now on may damage the process."""
        if self.checkpoint is not None:
            self.checkpoint.endanger()

    def blame(self, number: int, clause_record: ClauseRecord) -> None:
        """Attribute a later crash of this process to the call that a clause found wrong.

        Args:
            number: The number of the case.
            clause_record: The record of the clause.
        """
        if clause_record.found is not None and self.checkpoint is not None:
            finding = clause_record.found
            call = Underway(finding.deviation.case or finding.case, finding.deviation.replaced)
            self.checkpoint.blame(number, clause_record.clause.name, call)

    def leave(self) -> None:
        """Tell the checkpoint that the campaign is over."""
        if self.checkpoint is not None:
            self.checkpoint.leave()


def _record_of(step: str, clause_records: Mapping[str, ClauseRecord]) -> ClauseRecord:
    """Return the record of the clause that a step belongs to.

    The call of a case belongs to clause `accepts`, or to the first clause if that is not judged.
    """
    return clause_records.get("accepts" if step == CALL else step) or next(
        iter(clause_records.values())
    )
