"""What a campaign has learned about one clause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lossspec.cases.case import Case
from lossspec.clauses import Clause
from lossspec.excuse import Excuse
from lossspec.execution.checkpoint import Underway
from lossspec.judging.finding import Finding, Question
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.thresholds import FRUITLESS_CASES


@dataclass
class ClauseRecord:
    """What a campaign learned about one clause.

    findings : every deviation, in the order in which they were found; nothing is ever taken out.
    shown : the findings that a report shows, each of another kind, as their simplest cases show
    them. examples, informative : how many cases were judged, and how many of them could have told
    right from wrong. excused : how many cases say nothing against the implementation, by reason.
    blocked : how many did not meet a precondition, by its name. fatal : whether it has ended a
    process. killer : the case that it was judging. last_call : what was called then. over : whether
    it gets no further case. broken : the error of lossspec itself that ended its judging. stale :
    the listed deviation whose stored case no longer fails. lacks : what the implementation lacks
    for it. sound, unsound : while no case was about the clause, whether some call was right, and
    whether some was not. seconds : what its own judgements and shrinking took. share : its part of
    the time that all clauses need, for cases and answers: each case's time is divided evenly among
    the clauses that judged it.
    """

    clause: Clause
    findings: list[Finding] = field(default_factory=list)
    shown: list[Finding] = field(default_factory=list)
    examples: int = 0
    informative: int = 0
    excused: Counter[Excuse] = field(default_factory=Counter)
    blocked: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    worst_case: Case | None = None
    dtypes: set[str] = field(default_factory=set)
    seconds: float = 0.0
    share: float = 0.0
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

    @property
    def found(self) -> Finding | None:
        """The first finding that counts, as its simplest case shows it where that is known."""
        return next(iter(self.shown), None) or next((f for f in self.findings if f.counts), None)

    def asking(self, question: Question) -> Iterator[Finding]:
        """Yield the findings that wait for an answer."""
        return (f for f in self.findings if f.question is question and f.excuse is None)

    def excused_by(self, excuse: Excuse) -> Finding | None:
        """Return the first finding that has an excuse."""
        return next((f for f in self.findings if f.excuse is excuse), None)

    def learns(self, patience: float) -> bool:
        """Return whether another case may tell the clause something.

        After a deviation a clause goes on, to look for one of another kind, unless its calls are
        costly or may damage the process. patience : how many times the informative cases that are
        enough it gets.
        """
        clause = self.clause
        tries = 1 if clause.once else FRUITLESS_CASES
        never_works = self.failed >= tries and not self.examples
        if self.over or self.broken or self.killer or never_works:
            return False
        if self.found is not None and (clause.hazard or clause.chosen or clause.once):
            return False
        if clause.chosen:
            return True  # until no case is left that shows more
        if clause.once:
            return not self.examples
        return clause.enough is None or self.informative < clause.enough * patience


def share_rest(seconds: float, clause_records: Sequence[ClauseRecord]) -> None:
    """Divide the time that no clause used alone, in proportion to the cases that each judged."""
    rest = max(0.0, seconds - sum(clause_record.seconds for clause_record in clause_records))
    cases = sum(clause_record.examples for clause_record in clause_records)
    for clause_record in clause_records:
        clause_record.share = rest * (
            clause_record.examples / cases if cases else 1 / len(clause_records)
        )
