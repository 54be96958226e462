"""The interface of an object that follows a campaign case by case."""

from __future__ import annotations

from typing import Protocol

from lossspec.clauses.trial import Trial
from lossspec.judging.clause_record import ClauseRecord


class Observer(Protocol):
    """An object that a campaign calls for every case and every judgement.

    It can skip cases and end the campaign early.
    """

    def wants(self, number: int) -> bool:
        """Return whether the case with this number in the stream shall be judged."""

    def judged(self, number: int, clause_record: ClauseRecord, trial: Trial) -> bool:
        """Receive a judgement; return whether the campaign continues.

        Args:
            number: The number of the case in the stream.
            clause_record: The record of the clause that judged it.
            trial: The trial that was judged.
        """
