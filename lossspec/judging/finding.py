"""A finding: what one case showed for one clause."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property

from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation
from lossspec.excuse import Excuse
from lossspec.judging.kinds import Kind, kind_of
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.oracle.solver import SolvedCase


class Question(Enum):
    """What must be known of all calls before a deviation counts."""

    #: Whether calls in its dtype work at all, or the dtype is not supported.
    DTYPE_WORKS = auto()
    #: Whether calls of its optional form work at all.
    FORM_WORKS = auto()
    #: Whether any result carries a graph, or the implementation computes outside torch.
    GRAPH_EXPECTED = auto()
    #: Whether the clause finds nothing but a missing gradient, which must not hide a wrong one.
    NOTHING_ELSE = auto()
    #: Whether it is another kind of deviation than the first one.
    ANOTHER_KIND = auto()


@dataclass(frozen=True, eq=False)
class Finding:
    """A deviation that a case showed and, if there is one, the excuse for it.

    by : what excuses it: the listed deviation, or the name of the implementation that does the
    same. question : what must be known before it counts. error : the error that the call raised.
    worst : the error ÷ budget that the clause saw.
    """

    solved: SolvedCase
    deviation: Deviation
    excuse: Excuse | None = None
    by: KnownDeviation | str | None = None
    question: Question | None = None
    error: str = ""
    worst: float = field(default=0.0)

    @property
    def case(self) -> Case:
        """The case that showed it."""
        return self.solved.case

    @cached_property  # each later deviation of a clause is compared with it
    def kind(self) -> Kind:
        """What broke, and what the call had that the plainest one has not."""
        return kind_of(self.solved, self.deviation)

    @property
    def counts(self) -> bool:
        """Whether it is held against the implementation, whatever other calls show."""
        return self.excuse is None and self.question is None

    def with_(self, solved: SolvedCase, deviation: Deviation) -> Finding:
        """The same finding as a simpler case shows it."""
        return replace(self, solved=solved, deviation=deviation)
