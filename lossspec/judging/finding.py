"""A finding: a deviation from one clause that one case showed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property

from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation
from lossspec.excuse import Excuse
from lossspec.judging.kinds import Kind, kind_of
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.oracle.solver import SolvedCase


class Question(Enum):
    """A question about all calls whose answer decides whether a deviation counts."""

    #: Do calls in this dtype work at all? Otherwise the dtype is not supported.
    DTYPE_WORKS = auto()
    #: Do calls of this optional form work at all? Otherwise the form is not supported.
    FORM_WORKS = auto()
    #: Does any result require a gradient? Otherwise the implementation may compute outside torch.
    GRAPH_EXPECTED = auto()
    #: Are missing gradients the only deviations? Otherwise the report shows the others instead.
    NOTHING_ELSE = auto()
    #: Is the deviation of another kind than the first one?
    ANOTHER_KIND = auto()


@dataclass(frozen=True, eq=False)
class Finding:
    """A deviation that a case showed, and its excuse if there is one.

    Attributes:
        solved: The case and its right answer.
        deviation: The deviation.
        excuse: The excuse, if there is one.
        by: The known deviation, or the name of the torch counterpart, that gives the excuse.
        question: The question whose answer decides whether the deviation counts.
        error: The error that the call raised, or the deviation, as text.
    """

    solved: SolvedCase
    deviation: Deviation
    excuse: Excuse | None = None
    by: KnownDeviation | str | None = None
    question: Question | None = None
    error: str = ""

    @property
    def case(self) -> Case:
        """The case that showed the deviation."""
        return self.solved.case

    @cached_property  # it is compared with each later deviation of the clause
    def kind(self) -> Kind:
        """The kind of the deviation, which includes the traits of the call."""
        return kind_of(self.solved, self.deviation)

    @property
    def counts(self) -> bool:
        """Whether the deviation counts, independently of all other calls."""
        return self.excuse is None and self.question is None

    def with_(self, solved: SolvedCase, deviation: Deviation) -> Finding:
        """Return the same finding, shown by a simpler case."""
        return replace(self, solved=solved, deviation=deviation)
