"""Clauses on losses that depend on a whole batch: coupled rows, or one loss for the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lossspec.cases.axes import axes_of, part_along
from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause
from lossspec.clauses.precondition import has_its_dtype, precondition, raises_nothing, works
from lossspec.clauses.trial import NotJudged, Trial, any_judged, required
from lossspec.errors import SpecError
from lossspec.excuse import Excuse
from lossspec.execution.tensors import to_extended
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex, Surface
from lossspec.spec.shapes import root
from lossspec.thresholds import SLACK

ENOUGH = 30


def _of_whole_batch(loss: Loss, surface: Surface) -> bool:
    return any(loss.whole_batch(contract) for form in loss.forms for contract in form.contracts)


def _in_any_order(loss: Loss, surface: Surface) -> bool:
    return loss.rows != "ordered" and _of_whole_batch(loss, surface)


def _repeatable(loss: Loss, surface: Surface) -> bool:
    return loss.repeatable and _of_whole_batch(loss, surface)


@precondition()
def _several_rows_together(trial: Trial) -> bool:
    """The result depends on all rows of a batch of at least two."""
    rows = trial.case.axis_sizes(trial.loss).get(trial.loss.batch, 0)
    return trial.loss.whole_batch(trial.case.shape) and rows > 1


@dataclass(frozen=True)
class _Rearranged:
    """A trial beside one whose batch holds the same rows in another order, or more than once.

    Attributes:
        trial: The trial.
        rows: For each row of the other batch, its row in the batch of the trial.
    """

    trial: Trial
    rows: np.ndarray

    @cached_property
    def other(self) -> Trial:
        """The trial of the other batch."""
        trial = self.trial
        case = part_along(trial.loss, trial.case, trial.loss.batch, self.rows)
        if not trial.allows(case):
            raise NotJudged(Excuse.NOT_ABOUT)
        case = case.with_(tensors={**case.tensors, **self._renumbered(case)}, layouts={})
        return Trial(trial.under_test, SolvedCase(trial.loss, case), trial.device)

    def _renumbered(self, case: Case) -> dict[str, np.ndarray]:
        """Return the tensors that hold numbers of rows, with the numbers in the other batch."""
        new = np.unique(self.rows, return_index=True)[1]  # where each row comes first
        found = {}
        for name, role in self.trial.form.tensors.items():
            if isinstance(role, ClassIndex) and role.classes == self.trial.loss.batch:
                index = case.tensors[name]
                found[name] = new[index].astype(index.dtype)
        return found

    def moved(self, array: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
        """Return an array of the trial with its rows as in the other batch."""
        for i, axis in enumerate(axes):
            if root(axis) == self.trial.loss.batch and array.shape[i] > 1:
                array = array.take(self.rows, i)
        return array

    def check_definition(self, declared: str) -> None:
        """Check that the definition gives each row the same loss in both batches.

        Args:
            declared: The declaration that promises it, with the remedy.

        Raises:
            SpecError: It does not.
        """
        trial, axes = self.trial, self.trial.case.shape.result
        here, there = trial.expected.value("none"), self.other.expected.value("none")
        want, granted = self.moved(here.exact, axes), self.moved(here.budget, axes)
        with np.errstate(invalid="ignore"):
            apart = np.abs(there.exact - want) > SLACK * (granted + there.budget)
        if apart.any():
            at = tuple(int(i) for i in np.argwhere(apart)[0])
            raise SpecError(
                f"spec {trial.loss.name!r}: {declared}; define gives {float(want[at]):.9g} for "
                f"the batch and {float(there.exact[at]):.9g} for the rearranged one"
            )

    def value(self, reduction: str, what: str) -> bool:
        """Compare the values of both calls under a reduction.

        Returns:
            Whether a wrong result would have shown.
        """
        trial, beside = self.trial, self.other
        if not trial.can(reduction):
            raise NotJudged(Excuse.NOT_SUPPORTED)
        axes = trial.case.shape.result if reduction == "none" else ()
        mine, theirs = required(trial.under(reduction)), required(beside.under(reduction))
        here, there = trial.expected.value(reduction), beside.expected.value(reduction)
        if mine.shape != here.exact.shape or theirs.shape != there.exact.shape:
            raise NotJudged(Excuse.CALL_FAILS)
        change = np.abs(there.exact - self.moved(here.exact, axes))
        if (change > SLACK * (self.moved(here.budget, axes) + there.budget)).any():
            raise NotJudged(Excuse.NOT_ABOUT)  # such as a mean whose divisor is below its floor
        own = self.moved(mine, axes)
        budget = self.moved(here.budget, axes) + there.budget
        budget = np.where(np.isfinite(own) & np.isfinite(theirs), budget, np.inf)
        want = Bounded.around(own, budget, trial.case.dtype)
        shown = beside.case.with_(reduction=reduction)
        return trial.agree(theirs, want, f"{reduction!r} {what}", case=shown)

    def gradients(self, what: str) -> Iterator[bool]:
        """Compare the gradients of both calls, and yield for each whether it was judged closely."""
        trial, beside = self.trial, self.other
        wants = beside.expected.gradients()
        for name, here in trial.expected.gradients().items():
            mine, theirs = trial.outcome.gradients.get(name), beside.outcome.gradients.get(name)
            if mine is None or theirs is None or name not in wants:
                continue
            axes = axes_of(trial.loss, trial.form, trial.case.shape, name, here.exact.ndim)
            own, there = self.moved(to_extended(mine), axes), wants[name]
            if own.shape != there.exact.shape:
                continue
            # At a kink each call may take another one-sided derivative.
            budget = self.moved(here.budget, axes) + there.budget + (there.high - there.low)
            budget = np.where(np.isfinite(own) & np.isfinite(budget), budget, np.inf)
            want = Bounded.around(own, budget, trial.case.dtype, there.free_axis)
            yield trial.agree(
                to_extended(theirs),
                want,
                f"the gradient of {name} {what}",
                of=f"gradients[{name!r}]",
                case=beside.case,
                gradient_of=name,
            )


def _rows(trial: Trial) -> int:
    return trial.case.axis_sizes(trial.loss)[trial.loss.batch]


@clause(
    _in_any_order,
    enough=ENOUGH,
    requires=[_several_rows_together, has_its_dtype, works, raises_nothing],
)
def whole_batch_permutation(trial: Trial) -> Judgement:
    """If a loss depends on the whole batch, reversing the order of the rows in every tensor
    reverses the unreduced losses and the gradients, and leaves a scalar loss unchanged."""
    both = _Rearranged(trial, np.arange(_rows(trial))[::-1])
    axis = trial.loss.batch
    both.check_definition(
        f"reversing the rows along the batch axis {axis!r} must only reverse the losses; declare "
        "rows='ordered' if their order matters, or name another axis with Loss(batch=...)"
    )
    what = "with the rows of every tensor reversed"
    informative = both.value(trial.case.reduction, what)
    return any([informative, *both.gradients(what)])


@clause(
    _repeatable,
    enough=ENOUGH,
    requires=[_several_rows_together, has_its_dtype, works],
)
def whole_batch_repetition(trial: Trial) -> Judgement:
    """If the spec declares it, a batch that is given twice has the same `mean`, and each row the
    same unreduced loss, as the batch given once."""
    both = _Rearranged(trial, np.tile(np.arange(_rows(trial)), 2))
    both.check_definition(
        "repeatable=True promises that each row has the same loss if the batch is given twice; "
        "leave it out if it has not"
    )

    def judged(reduction: str) -> bool:
        return both.value(reduction, "of the batch given twice")

    same = [name for name in ("none", "mean") if name in trial.loss.reductions]
    return any_judged(trial, judged, same)
