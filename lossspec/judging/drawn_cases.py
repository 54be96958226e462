"""The drawn cases of a campaign: a stream, followed by a search for larger errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis.database import ExampleDatabase

from lossspec.cases.hypothesis_runs import Enough, try_again
from lossspec.cases.strategies import DrawnCase, drawn_cases
from lossspec.judging.profiles import Profile
from lossspec.judging.stream import (
    REPLACED,
    STARTS,
    look_at_stream,
    look_for_worse,
    solved_once,
)
from lossspec.judging.support import Support
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss

#: The most cases to draw for each informative case that a dtype lacks.
TRIES = 5


@dataclass
class DrawnCases:
    """The drawn cases of one loss, which are passed to a function that judges them.

    Attributes:
        loss: The spec of the loss.
        profile: How many cases are drawn.
        seed: The seed of the drawn cases.
        dtypes: The dtypes to draw cases in. None stands for all dtypes of the loss.
        support: Knows in which dtypes calls have worked.
        look: Judges a case, and returns its largest error ÷ budget.
        wants_more: Returns whether more cases are needed.
        lacking: Returns how many informative cases a dtype still needs.
        more: Called with the number of cases that will be drawn beyond those of the profile.
    """

    loss: Loss
    profile: Profile
    seed: int
    dtypes: tuple[str, ...] | None
    support: Support
    look: Callable[[SolvedCase], float]
    wants_more: Callable[[], bool]
    lacking: Callable[[str], int]
    more: Callable[[int], None]
    #: The cases with the largest errors, each with its error ÷ budget.
    _worst: list[tuple[float, SolvedCase]] = field(init=False, default_factory=list)

    def hand_over_again(
        self, database: ExampleDatabase | None, name: str, fails: Callable[[SolvedCase], bool]
    ) -> None:
        """Judge the cases that failed in earlier runs, and remove those that no longer fail.

        Args:
            database: The Hypothesis database of failing cases.
            name: The key of the campaign in the database.
            fails: Judges a case, and returns whether it still fails.
        """

        def drawn_fails(drawn: DrawnCase) -> bool:
            return fails(solved_once(self.loss, self.dtypes, drawn))

        try_again(drawn_cases(self.loss, self.dtypes), database, name, drawn_fails)

    def hand_over(self) -> None:
        """Draw the stream of cases, then replacement cases, then search for larger errors.

        Replacement cases make up for cases in dtypes that do not work, and for dtypes in which few
        cases could tell right from wrong. The search starts from the cases with the largest errors.
        """
        loss, profile = self.loss, self.profile
        look_at_stream(loss, profile.cases(loss), self.seed, self.dtypes, self._look_if_wanted)
        if not self.wants_more():
            return
        works, lost = self._wasted()
        self.more(lost)
        look_at_stream(loss, lost, self.seed + REPLACED, works, self._look_if_wanted)
        for dtype in works:
            self._replace_uninformative(dtype)
        best = [solved for _, solved in self._worst if solved.dtypes == self.dtypes]
        look_for_worse(loss, profile.searched, self.seed, self.dtypes, best, self.look)

    def _replace_uninformative(self, dtype: str) -> None:
        """Draw cases in a dtype until enough of them could tell right from wrong."""
        count = TRIES * self.lacking(dtype)
        self.more(count)

        def look(solved: SolvedCase) -> None:
            if not self.lacking(dtype):
                raise Enough
            self._look_if_wanted(solved)

        look_at_stream(self.loss, count, self.seed + REPLACED, (dtype,), look)

    def _look_if_wanted(self, solved: SolvedCase) -> None:
        if not self.wants_more():
            raise Enough
        self._worst.append((self.look(solved), solved))
        self._worst.sort(key=lambda pair: -pair[0])
        del self._worst[STARTS:]

    def _wasted(self) -> tuple[tuple[str, ...], int]:
        """Return the dtypes that work, and the number of cases drawn in other dtypes."""
        asked = self.dtypes or self.loss.dtypes
        works = tuple(dtype for dtype in asked if self.support.ran.get(dtype, (0,))[0])
        if not works:
            return works, 0
        return works, self.profile.cases(self.loss) * (len(asked) - len(works)) // len(asked)
