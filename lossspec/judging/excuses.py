"""The excuses of a deviation: it is known, torch shares it, or a parameter is not accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lossspec.cases.case import Case
from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation, Trial
from lossspec.dtypes import dtype_name
from lossspec.excuse import Excuse
from lossspec.execution.devices import accelerates
from lossspec.execution.global_state import told_of_nondeterminism
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.messages import nondeterministic
from lossspec.implementations.counterpart import composed_counterpart
from lossspec.judging.deviation import deviation_of
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.roles import ClassIndex, Weight
from lossspec.thresholds import COUNTERPART_BARS, SAME_DEVIATION


@dataclass(frozen=True)
class Excuses:
    """The search for excuses, for one implementation on one device.

    Attributes:
        under_test: The implementation of the loss.
        device: The device of all tensors, such as `cuda:0`.
        known: The known deviations of this loss.
        reference: The torch counterpart. A deviation that it shares is excused. None if the
            implementation under test is torch itself.
    """

    under_test: LossUnderTest
    device: str = "cpu"
    known: Sequence[KnownDeviation] = ()
    reference: LossUnderTest | None = None

    def trial(self, case: Case) -> Trial:
        """Return a trial of a case, whose call is not made yet."""
        return Trial(self.under_test, SolvedCase(self.under_test.loss, case), self.device)

    def of(
        self, clause: Clause, trial: Trial, deviation: Deviation
    ) -> tuple[Excuse | None, KnownDeviation | str | None]:
        """Return the excuse of a deviation, and its source.

        Args:
            clause: The clause that the trial deviates from.
            trial: The trial.
            deviation: Its deviation.

        Returns:
            The excuse, and the known deviation or the name of the torch counterpart that gives it.
            Each is None if there is none.
        """
        known = self.listed(clause, trial.case, deviation)
        if known is not None:
            return Excuse.EXPECTED_FAILURE, known
        if self.by_absence(clause, trial):
            return Excuse.OTHER_MEANING, None
        if self.by_order(trial, deviation):
            return Excuse.NONDETERMINISTIC, None
        torchs = self.inherited(clause, trial, deviation)
        if torchs is not None:
            return Excuse.SAME_AS_TORCH, torchs.implementation
        return None, None

    def listed(self, clause: Clause, case: Case, deviation: Deviation) -> KnownDeviation | None:
        """Return the known deviation that covers a deviation of a case, if there is one."""
        about = (known for known in self.known if known.clause == clause.name)
        return next((known for known in about if known.covers(case, deviation)), None)

    def by_order(self, trial: Trial, deviation: Deviation) -> bool:
        """Return whether a repeated result differs by its rounding only, as torch documents.

        On an accelerator, threads add numbers in any order. Torch lists the operations that do so,
        and warns of them if it is asked for deterministic algorithms.

        Args:
            trial: The trial.
            deviation: Its deviation.
        """
        if deviation.repeated is None or not accelerates(self.device):
            return False
        got, want = deviation.repeated
        if got.shape != want.exact.shape or (want.error(got) > 1).any():
            return False
        with told_of_nondeterminism():
            outcome = trial.attempt()
        return any(map(nondeterministic, outcome.warnings))

    def by_absence(self, clause: Clause, trial: Trial) -> bool:
        """Return whether the trial conforms if the parameters it lacks have another value.

        Some parameters have two documented values. An implementation whose signature lacks such a
        parameter may behave according to either.

        Args:
            clause: The clause that the trial deviates from.
            trial: The trial.
        """
        absent = {
            name: parameter.absent
            for name, parameter in trial.loss.parameters_of(trial.form).items()
            if parameter.absent is not None
            and name not in self.under_test.conventions
            and not self.under_test.takes(name)
        }
        if not absent:
            return False
        other = self.trial(trial.case.with_(parameters={**trial.case.parameters, **absent}))
        if deviation_of(clause, other) is not None:
            return False
        # If the clause cannot judge the other value, value and gradients must be right instead.
        return clause.unmet(other) is None or other.conforms

    def inherited(self, clause: Clause, trial: Trial, deviation: Deviation) -> LossUnderTest | None:
        """Return the loss of torch that deviates in the same way on the same call, if any.

        Args:
            clause: The clause that the trial deviates from.
            trial: The trial.
            deviation: Its deviation.
        """
        if self.reference is None:
            return None
        for torchs, call in _counterparts(self.reference, trial, deviation.gradient_of):
            solved = trial.solved if call is trial.case else SolvedCase(trial.loss, call)
            for bar in COUNTERPART_BARS:
                try:
                    same = deviation_of(clause, Trial(torchs, solved, self.device, bar=bar))
                except Exception:
                    break  # the clause cannot judge this call of torch
                if same is not None and _alike(clause, deviation, same):
                    return torchs
        return None


def _counterparts(
    reference: LossUnderTest, trial: Trial, gradient_of: str | None
) -> Iterator[tuple[LossUnderTest, Case]]:
    """Yield calls of torch from which the implementation may have inherited a deviation.

    Args:
        reference: The loss of torch.
        trial: The trial that deviates.
        gradient_of: The tensor whose gradient deviates; None for a value.
    """
    documented = _documented(trial)
    yield reference, documented
    # A clause stops at the first gradient that deviates, so each gradient is also tried alone.
    if len(documented.requires_grad) > 1:
        for name in documented.requires_grad:
            yield reference, documented.with_(requires_grad=(name,))
    # The composed counterpart below divides by a constant: its gradient by a weight is no excuse.
    if isinstance(trial.loss.options.get(gradient_of or ""), Weight):
        return
    # An implementation may reduce torch's unreduced loss itself, which rounds in another way.
    parts = composed_counterpart(trial.loss)
    if parts is not None and trial.expected.plain and documented.reduction in ("mean", "sum"):
        yield parts, documented


def _documented(trial: Trial) -> Case:
    """Return the case of a trial, with class indices in the dtype that torch documents."""
    changed = {
        name: trial.case.tensors[name].astype(role.dtypes[0])
        for name, role in trial.form.tensors.items()
        if isinstance(role, ClassIndex) and dtype_name(trial.case.tensors[name]) in role.tolerated
    }
    if not changed:
        return trial.case
    return trial.case.with_(tensors={**trial.case.tensors, **changed})


def _alike(clause: Clause, deviation: Deviation, same: Deviation) -> bool:
    """Return whether torch's deviation `same` is the same as the implementation's."""
    if clause.name == "accepts":  # the errors may differ, but torch must not fail only later
        later = same.what.startswith("backward") and not deviation.what.startswith("backward")
        return "raised" in same.what and "raised" in deviation.what and not later
    if same.what == deviation.what and deviation.replaced:
        return True  # the results of an invalid call need not be equal
    return same.kind == deviation.kind and _off_by_the_same(same, deviation)


def _off_by_the_same(torchs: Deviation, mine: Deviation) -> bool:
    """Return whether all errors are about equal, for example because both add an epsilon.

    `SAME_DEVIATION` says how much the errors may differ.
    """
    if torchs.compared is None or mine.compared is None:
        return (torchs.what, torchs.got) == (mine.what, mine.got)
    (theirs, right_there), (got, right) = torchs.compared, mine.compared
    if theirs.shape != got.shape:
        return False
    with np.errstate(all="ignore"):
        wrong = right.error(got) > 1
        as_wrong = right_there.error(theirs) > COUNTERPART_BARS[-1]
        off, off_there = got - right.exact, theirs - right_there.exact
        near = np.abs(off - off_there) <= SAME_DEVIATION * np.abs(off_there) + right.budget
        same = np.where(np.isfinite(got) & np.isfinite(theirs), near, got == theirs)
        same |= np.isnan(got) & np.isnan(theirs)
        return bool((~wrong | (as_wrong & same)).all())
