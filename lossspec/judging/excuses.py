"""What excuses a deviation: a known one, torch's own, or a parameter that is not taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lossspec.cases.case import Case
from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation, Trial
from lossspec.dtypes import dtype_name
from lossspec.excuse import Excuse
from lossspec.execution.implementation import LossUnderTest
from lossspec.implementations.counterpart import composed_counterpart
from lossspec.judging.deviation import deviation_of
from lossspec.judging.known_deviations import KnownDeviation
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.roles import ClassIndex
from lossspec.thresholds import COUNTERPART_BARS, SAME_DEVIATION


@dataclass(frozen=True)
class Excuses:
    """Look for what excuses the deviations of one implementation on one device.

    known : the known deviations of this loss. reference : torch's own function or class, whose
    deviations are not held against an implementation that inherits them; None for torch itself.
    """

    under_test: LossUnderTest
    device: str = "cpu"
    known: Sequence[KnownDeviation] = ()
    reference: LossUnderTest | None = None

    def trial(self, case: Case) -> Trial:
        """Return a trial of the implementation with a case."""
        return Trial(self.under_test, SolvedCase(self.under_test.loss, case), self.device)

    def of(
        self, clause: Clause, trial: Trial, deviation: Deviation
    ) -> tuple[Excuse | None, KnownDeviation | str | None]:
        """Return the excuse of a deviation, and what excuses it; None and None if nothing does."""
        known = self.listed(clause, trial.case, deviation)
        if known is not None:
            return Excuse.EXPECTED_FAILURE, known
        if self.by_absence(clause, trial):
            return Excuse.OTHER_MEANING, None
        torchs = self.inherited(clause, trial, deviation)
        if torchs is not None:
            return Excuse.SAME_AS_TORCH, torchs.implementation
        return None, None

    def listed(self, clause: Clause, case: Case, deviation: Deviation) -> KnownDeviation | None:
        """Return the known deviation of a clause that covers a deviation of a case, if any."""
        about = (known for known in self.known if known.clause == clause.name)
        return next((known for known in about if known.covers(case, deviation)), None)

    def by_absence(self, clause: Clause, trial: Trial) -> bool:
        """Return whether the trial conforms once the parameters it lacks have other values.

        A parameter that the signature lacks may have either of two documented values.
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
        # A clause that cannot judge the other meaning has not shown that it is the right one.
        return clause.unmet(other) is None or other.conforms

    def inherited(self, clause: Clause, trial: Trial, deviation: Deviation) -> LossUnderTest | None:
        """Return the loss of torch that does the same on the same call, if any."""
        if self.reference is None:
            return None
        for torchs, call in _counterparts(self.reference, trial):
            solved = trial.solved if call is trial.case else SolvedCase(trial.loss, call)
            for bar in COUNTERPART_BARS:
                try:
                    same = deviation_of(clause, Trial(torchs, solved, self.device, bar=bar))
                except Exception:
                    break  # the clause has nothing to say about torch here
                if same is not None and _alike(clause, deviation, same):
                    return torchs
        return None


def _counterparts(reference: LossUnderTest, trial: Trial) -> Iterator[tuple[LossUnderTest, Case]]:
    """The calls of torch that an implementation may inherit a deviation from."""
    documented = _documented(trial)
    yield reference, documented
    # Torch may deviate elsewhere first: in another gradient, or where this is within budget.
    if len(documented.requires_grad) > 1:
        for name in documented.requires_grad:
            yield reference, documented.with_(requires_grad=(name,))
    # The mean of torch's unreduced loss has the roundings of its parts.
    parts = composed_counterpart(trial.loss)
    if parts is not None and trial.expected.plain and documented.reduction in ("mean", "sum"):
        yield parts, documented


def _documented(trial: Trial) -> Case:
    """The call of a trial with class indices in a dtype that torch is documented to take."""
    changed = {
        name: trial.case.tensors[name].astype(role.dtypes[0])
        for name, role in trial.form.tensors.items()
        if isinstance(role, ClassIndex) and dtype_name(trial.case.tensors[name]) in role.tolerated
    }
    if not changed:
        return trial.case
    return trial.case.with_(tensors={**trial.case.tensors, **changed})


def _alike(clause: Clause, deviation: Deviation, same: Deviation) -> bool:
    """Whether torch's deviation is the same one."""
    if clause.name == "accepts":  # whatever they raise, but not where torch has a value
        later = same.what.startswith("backward") and not deviation.what.startswith("backward")
        return "raised" in same.what and "raised" in deviation.what and not later
    if same.what == deviation.what and deviation.replaced:
        return True  # an invalid call may return anything; torch returns something too
    return same.kind == deviation.kind and _off_by_the_same(same, deviation)


def _off_by_the_same(torchs: Deviation, mine: Deviation) -> bool:
    """Whether two are off by the same, to a tenth: such as by an epsilon that torch adds too."""
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
