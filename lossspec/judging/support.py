"""The features that an implementation supports, as its calls show.

Features are arguments, forms, dtypes, reductions and gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lossspec.cases.case import Case
from lossspec.clauses import clauses
from lossspec.clauses.trial import Deviation, Trial
from lossspec.dtypes import dtype_name
from lossspec.execution.declaration import DTYPES, Ability
from lossspec.execution.devices import dtype_problem
from lossspec.execution.outcome import Phase, differentiable
from lossspec.execution.support import leaves_torch
from lossspec.judging.clause_record import ClauseRecord
from lossspec.judging.deviation import deviation_of
from lossspec.judging.excuses import Excuses
from lossspec.judging.finding import Finding, Question
from lossspec.safe_text import foreign_error

#: A feature of a call, as a kind and a value, such as `("dtype", "float16")`.
Feature = tuple[str, str]


@dataclass
class Support:
    """The features that an implementation supports, and those that never worked.

    Attributes:
        unsupported: The parameters, optional tensors, reductions and forms that it lacks.
        refused: The dtypes that never worked or that the device does not support, with the error.
        attached: Whether any result required a gradient.
        ran: For each dtype and form, the numbers of calls that worked and that raised.
        absent: For each dtype, the errors that say that something is not implemented.
        absent_call: For each dtype, the first call that raised such an error.
        unimplemented: For each such error, the features of the calls that raised it.
        worked: The features of the calls that worked.
        loses_graph: Whether a result without a gradient is a deviation. It is not if the
            implementation computes outside torch.
        works: The phases of a call, `call` and `backward`, that have worked in float32.
        fails: For each phase, the first deviation of a call in float32 that had to work.
        mandatory: The dtypes that must work: float32 and the declared ones.
    """

    unsupported: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    attached: bool = False
    ran: dict[str, list[int]] = field(default_factory=dict)
    absent: dict[str, set[str]] = field(default_factory=dict)
    absent_call: dict[str, Finding] = field(default_factory=dict)
    unimplemented: dict[str, set[Feature]] = field(default_factory=dict)
    worked: set[Feature] = field(default_factory=set)
    loses_graph: bool = False
    works: set[Phase] = field(default_factory=set)
    fails: dict[Phase, Finding] = field(default_factory=dict)
    mandatory: set[str] = field(default_factory=lambda: {"float32"})

    def never(self, phase: Phase) -> bool:
        """Return whether a phase of a call must work in float32 and never did."""
        return phase in self.fails and phase not in self.works

    def held(self, case: Case, device: str) -> bool:
        """Return whether the device supports the dtypes of a case; if not, record the dtype."""
        for dtype in sorted({dtype_name(array) for array in case.tensors.values()}):
            reason = dtype_problem(device, dtype)
            if reason is not None:
                self.refused[dtype] = reason
                return False
        return True

    def note_unimplemented(self, trial: Trial, error: BaseException) -> None:
        """Record a call that raised an error which says that something is not implemented."""
        text = foreign_error(error)
        self.absent.setdefault(trial.case.dtype, set()).add(text)
        what = f"{trial.outcome.phase} raised {type(error).__name__}"
        deviation = Deviation(what, text, "a tensor", check="error is None")
        self.absent_call.setdefault(trial.case.dtype, Finding(trial.solved, deviation))
        self.unimplemented.setdefault(text, set()).update(_features(trial))

    def note_call(self, trial: Trial, excuses: Excuses) -> None:
        """Record any other call: whether it worked, and whether its result required a gradient."""
        error, case = trial.outcome.error, trial.case
        self.attached |= differentiable(trial.outcome.value)
        if error is None and not empty(case):  # torch often runs no kernel for empty tensors
            self.worked |= _features(trial)
        for kind in (case.dtype, case.form):
            self.ran.setdefault(kind, [0, 0])[error is not None] += 1
        if case.dtype == "float32":
            self._note_phase(trial, excuses)

    def _note_phase(self, trial: Trial, excuses: Excuses) -> None:
        """Record which phases of a float32 call work, and the first failure of each phase."""
        phase: Phase = "backward" if trial.worked else "call"
        if trial.worked:
            self.works.add("call")
            if trial.outcome.error is None and differentiable(trial.outcome.value):
                self.works.add("backward")
        if phase in {*self.works, *self.fails} or trial.form.optional:
            return
        accepts = clauses()["accepts"]
        deviation = deviation_of(accepts, trial)
        if deviation is not None and excuses.of(accepts, trial, deviation)[0] is None:
            self.fails[phase] = Finding(trial.solved, deviation)

    def settle(
        self, clause_records: Mapping[str, ClauseRecord], excuses: Excuses, timed_out: bool
    ) -> None:
        """Decide from all calls which dtypes, forms and gradients are not supported.

        Args:
            clause_records: The records of all clauses of the campaign.
            excuses: Holds the implementation under test and the device.
            timed_out: Whether a call reached its timeout, so that no further call is made.
        """
        under_test = excuses.under_test
        self.mandatory |= {d.value for d in DTYPES if under_test.declares(d)}
        self._settle_dtypes(clause_records)
        for clause_record in clause_records.values():
            detached = next(clause_record.asking(Question.GRAPH_EXPECTED), None)
            # `_loses_graph` may make another call, which could also hang.
            if detached is not None and not timed_out:
                self.loses_graph = self._loses_graph(detached, excuses)
                break
        source = "declared" if Ability.GRADIENT in under_test.abilities else "inferred"
        for clause_record in () if self.loses_graph else clause_records.values():
            if next(clause_record.asking(Question.GRAPH_EXPECTED), None) is not None:
                clause_record.lacks = f"{source}: its results have no gradient"

    def _loses_graph(self, detached: Finding, excuses: Excuses) -> bool:
        """Return whether a result without a gradient is a deviation.

        It is not if the implementation computes outside torch, for example with NumPy.
        """
        declared = excuses.under_test.abilities.get(Ability.GRADIENT)
        if self.attached or declared is not None:
            return self.attached or bool(declared)
        return not leaves_torch(excuses.under_test, detached.case, excuses.device)

    def _settle_dtypes(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        """Record the dtypes and forms that never worked, unless they must work."""
        accepts = clause_records.get("accepts")
        for dtype, texts in self.absent.items():
            if dtype not in self.ran and dtype not in self.mandatory:
                self.refused[dtype] = min(texts)
            declared = dtype in self.mandatory - {"float32"}
            if accepts is not None and declared and ("dtype", dtype) not in self.worked:
                accepts.findings.append(self.absent_call[dtype])
        for finding in [] if accepts is None else accepts.findings:
            case = finding.case
            if finding.question is Question.FORM_WORKS and not self.ran[case.form][0]:
                self.unsupported.add(case.form)
            elif finding.question is not None and not self.dtype_works(case.dtype):
                self.refused.setdefault(case.dtype, finding.error)

    def dtype_works(self, dtype: str) -> bool:
        """Return whether calls in a dtype have worked or must work."""
        return dtype in self.mandatory or self.ran.get(dtype, (0,))[0] > 0

    def counts(self, finding: Finding) -> bool:
        """Return whether a finding counts, now that all calls have been made."""
        if finding.excuse is not None:
            return False
        dtype, form = finding.case.dtype, finding.case.form
        match finding.question:
            case None | Question.NOTHING_ELSE:
                return True
            case Question.DTYPE_WORKS:
                return self.dtype_works(dtype)
            case Question.FORM_WORKS:
                return self.ran[form][0] > 0 and self.dtype_works(dtype)
            case Question.GRAPH_EXPECTED:
                return self.loses_graph
            case Question.ANOTHER_KIND:
                return False


def empty(case: Case) -> bool:
    """Return whether a tensor of a case has no elements."""
    return any(not array.size for array in case.tensors.values())


def _features(trial: Trial) -> set[Feature]:
    """Return the features of a call, without the arguments that have their default value."""
    case, known = trial.case, trial.loss.parameters_of(trial.form)
    found = {("dtype", case.dtype), ("reduction", case.reduction), ("form", case.form)}
    found |= {("argument", name) for name in case.tensors if name not in trial.form.tensors}
    return found | {
        ("argument", name)
        for name, parameter in known.items()
        if case.parameters[name] != parameter.default
    }
