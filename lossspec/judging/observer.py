"""What may follow a campaign from outside, case by case."""

from __future__ import annotations

from typing import Protocol

from lossspec.clauses.trial import Trial
from lossspec.judging.clause_record import ClauseRecord


class Observer(Protocol):
    """Told of every judgement of a campaign; it may end the campaign early."""

    def wants(self, number: int) -> bool:
        """Return whether the case of this number shall be judged."""

    def judged(self, number: int, clause_record: ClauseRecord, trial: Trial) -> bool:
        """Note that a clause has judged a trial; return whether the campaign goes on.

        number : of the case in the stream.
        """
