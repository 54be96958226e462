"""What a campaign has learned about one clause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lossspec.cases.case import Case
from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation
from lossspec.excuse import Excuse
from lossspec.execution.checkpoint import Underway
from lossspec.execution.implementation import LossUnderTest
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.thresholds import FRUITLESS_CASES


@dataclass
class ClauseRecord:
    """What a campaign learned about one clause.

    fatal : whether it has ended a process. killer : the case that it was judging. last_call : what
    was called then. over : whether it gets no further case. broken : the error of lossspec itself
    that ended its judging. sound, unsound : while no case was about the clause, whether some call
    was right, and whether some was not. seconds : what its own judgements and shrinking took.
    share : its part of the time that all clauses need, for cases and answers: each case's time is
    divided evenly among the clauses that judged it. excused : how many cases say nothing against
    the implementation, by reason. blocked : how many did not meet a precondition, by its name.
    skipped : how many parts of judged cases were not judged, by reason. asked : by dtype, how many
    numbers were asked for, and how many were not, by reason.
    """

    clause: Clause
    examples: int = 0
    informative: int = 0
    worst: float = 0.0
    worst_case: Case | None = None
    dtypes: set[str] = field(default_factory=set)
    seconds: float = 0.0
    share: float = 0.0
    excused: Counter[Excuse] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)
    skipped: Counter[Excuse] = field(default_factory=Counter)
    asked: dict[str, Counter[str]] = field(default_factory=dict)
    found: tuple[Case, Deviation] | None = None
    known: tuple[KnownDeviation, Case, Deviation] | None = None
    shared: tuple[LossUnderTest, Case, Deviation] | None = None
    stale: KnownDeviation | None = None
    broken: str | None = None
    lacks: str | None = None
    fatal: bool = False
    killer: Case | None = None
    last_call: Underway | None = None
    over: bool = False
    failed: int = 0
    sound: bool = False
    unsound: bool = False
    figures: dict[str, Any] = field(default_factory=dict)
    #: What went wrong in lossspec after the deviation was found, which the report says beside it.
    mishaps: list[str] = field(default_factory=list)

    def learns(self, patience: float) -> bool:
        """Return whether another case may tell the clause something.

        patience : how many times the informative cases that are enough it gets.
        """
        tries = 1 if self.clause.once else FRUITLESS_CASES
        never_works = self.failed >= tries and not self.examples
        if self.over or self.found or self.broken or self.killer or never_works:
            return False
        if self.clause.chosen:
            return True  # until no case is left that shows more
        if self.clause.once:
            return not self.examples
        enough = self.clause.enough
        return enough is None or self.informative < enough * patience


def share_rest(seconds: float, clause_records: Sequence[ClauseRecord]) -> None:
    """Divide the time that no clause used alone, in proportion to the cases that each judged."""
    rest = max(0.0, seconds - sum(clause_record.seconds for clause_record in clause_records))
    cases = sum(clause_record.examples for clause_record in clause_records)
    for clause_record in clause_records:
        clause_record.share = rest * (
            clause_record.examples / cases if cases else 1 / len(clause_records)
        )
