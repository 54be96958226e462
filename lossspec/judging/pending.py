"""Deviations that only all calls together can tell from a lack of support."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lossspec.cases.case import Case
from lossspec.clauses.trial import Deviation, Trial
from lossspec.execution.declaration import Ability
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.support import leaves_torch
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.excuses import Excuses
from lossspec.judging.support import Support, must_work
from lossspec.safe_text import foreign_error


@dataclass
class Pending:
    """Deviations that are decided at the end of a campaign.

    refusals : by dtype, the first call that raised though it ought to work. errors : by dtype, the
    first error or deviation of such a call. optional : by form and dtype, the first call of an
    optional form that raised. detached : by clause, the first deviation that is only that a result
    does not carry a graph. missing : by clause, the first that is only that one tensor has no
    gradient.
    """

    refusals: dict[str, tuple[Case, Deviation]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    optional: dict[tuple[str, str], tuple[Case, Deviation]] = field(default_factory=dict)
    detached: dict[str, tuple[Case, Deviation]] = field(default_factory=dict)
    missing: dict[str, tuple[Case, Deviation]] = field(default_factory=dict)

    def hold(self, name: str, trial: Trial, deviation: Deviation, attached: bool) -> bool:
        """Keep a deviation of a clause if it must be decided later; return whether it is kept.

        attached : whether some result carried a graph before.
        """
        case, found = trial.case, (trial.case, deviation)
        if name == "accepts":
            if trial.form.optional:
                self.optional.setdefault((case.form, case.dtype), found)
            else:
                self.refusals.setdefault(case.dtype, found)
                raised = trial.outcome.error
                what = f"{deviation.what}: {deviation.got}"
                self.errors.setdefault(case.dtype, foreign_error(raised) if raised else what)
        elif deviation.detached and not attached:
            self.detached.setdefault(name, found)
        elif deviation.missing:
            self.missing.setdefault(name, found)
        else:
            return False
        return True

    def decide(
        self,
        clause_records: Mapping[str, ClauseRecord],
        support: Support,
        excuses: Excuses,
        timed_out: bool,
    ) -> None:
        """Hold what is pending against the clauses, or note what is not supported."""
        self._decide_refusals(clause_records, support, excuses.under_test)
        for name, found in self.detached.items():
            clause_record = clause_records[name]
            if timed_out:  # to tell whose gradient is lost takes another call
                clause_record.informative = 0
            elif _loses_graph(found[0], support, excuses):
                clause_record.found = clause_record.found or found
            else:
                clause_record.examples = clause_record.informative = 0
                declared = Ability.GRADIENT in excuses.under_test.abilities
                source = "declared" if declared else "inferred"
                clause_record.lacks = f"{source}: its results have no gradient"
        for name, found in self.missing.items():
            clause_records[name].found = clause_records[name].found or found

    def _decide_refusals(
        self,
        clause_records: Mapping[str, ClauseRecord],
        support: Support,
        under_test: LossUnderTest,
    ) -> None:
        """Tell what never worked, and so is not there, from what raised where it ought to work."""
        for (form, dtype), found in self.optional.items():
            if support.ran[form][0]:
                self.refusals.setdefault(dtype, found)
            else:
                support.unsupported.add(form)
        for dtype, texts in support.absent.items():
            if dtype == "float32":
                continue
            if not must_work(under_test, dtype):
                if dtype not in support.ran:
                    support.refused[dtype] = min(texts)
            elif ("dtype", dtype) not in support.worked:
                self.refusals.setdefault(dtype, support.absent_call[dtype])
        for dtype, found in self.refusals.items():
            if not must_work(under_test, dtype) and not support.ran[dtype][0]:
                support.refused[dtype] = self.errors[dtype]
            elif "accepts" in clause_records and clause_records["accepts"].found is None:
                clause_records["accepts"].found = found


def _loses_graph(case: Case, support: Support, excuses: Excuses) -> bool:
    """Whether a gradient should be there: a library of arrays has none to be wrong."""
    declared = excuses.under_test.abilities.get(Ability.GRADIENT)
    if declared is not None:
        return declared or support.attached
    return support.attached or not leaves_torch(excuses.under_test, case, excuses.device)
