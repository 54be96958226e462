"""What an implementation supports, as its calls show: arguments, forms, dtypes, gradients."""

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

#: What is special about a call: its dtype, reduction, form or an argument, as kind and value.
Feature = tuple[str, str]


@dataclass
class Support:
    """What an implementation supports, and what never worked.

    unsupported : what the implementation lacks: parameters, optional tensors, reductions, forms.
    refused : dtypes that never worked, or that the device cannot hold, and the error.
    attached : whether some result carried a graph. ran : by dtype and by form, how many calls have
    worked and how many have raised. absent : by dtype, the errors that say that something is not
    implemented. absent_call : by dtype, the first such call. unimplemented : by such an error, the
    features of its calls. worked : the features of calls that worked. loses_graph : whether a
    gradient that is missing should be there: what computes outside torch has none to be wrong.
    works : the phases of a call that have worked in float32. fails : by phase, the first call in
    float32 that did not work, though it ought to. mandatory : dtypes that must work: torch's
    default, and those that are declared.
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
        """Return whether a phase of a call ought to work in float32 and never did."""
        return phase in self.fails and phase not in self.works

    def held(self, case: Case, device: str) -> bool:
        """Return whether the device can hold the tensors of a case; note the dtype it lacks."""
        for dtype in sorted({dtype_name(array) for array in case.tensors.values()}):
            reason = dtype_problem(device, dtype)
            if reason is not None:
                self.refused[dtype] = reason
                return False
        return True

    def note_unimplemented(self, trial: Trial, error: BaseException) -> None:
        """Note a call and its error, which says that something is not implemented."""
        text = foreign_error(error)
        self.absent.setdefault(trial.case.dtype, set()).add(text)
        what = f"{trial.outcome.phase} raised {type(error).__name__}"
        deviation = Deviation(what, text, "a tensor", check="error is None")
        self.absent_call.setdefault(trial.case.dtype, Finding(trial.solved, deviation))
        self.unimplemented.setdefault(text, set()).update(_features(trial))

    def note_call(self, trial: Trial, excuses: Excuses) -> None:
        """Note any other call: whether it worked, and with a graph."""
        error, case = trial.outcome.error, trial.case
        self.attached |= getattr(trial.outcome.value, "requires_grad", False)
        if error is None and not empty(case):  # many a kernel is not run on nothing
            self.worked |= _features(trial)
        for kind in (case.dtype, case.form):
            self.ran.setdefault(kind, [0, 0])[error is not None] += 1
        if case.dtype == "float32":
            self._note_phase(trial, excuses)

    def _note_phase(self, trial: Trial, excuses: Excuses) -> None:
        """Note which phases work in float32 and which do not, until they do."""
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
        """Learn from all calls together what is not supported, and what is lost."""
        under_test = excuses.under_test
        self.mandatory |= {d.value for d in DTYPES if under_test.declares(d)}
        self._settle_dtypes(clause_records)
        for clause_record in clause_records.values():
            detached = next(clause_record.asking(Question.GRAPH_EXPECTED), None)
            # To tell whose gradient is lost takes another call.
            if detached is not None and not timed_out:
                self.loses_graph = self._loses_graph(detached, excuses)
                break
        source = "declared" if Ability.GRADIENT in under_test.abilities else "inferred"
        for clause_record in () if self.loses_graph else clause_records.values():
            if next(clause_record.asking(Question.GRAPH_EXPECTED), None) is not None:
                clause_record.lacks = f"{source}: its results have no gradient"

    def _loses_graph(self, detached: Finding, excuses: Excuses) -> bool:
        """Whether a gradient should be there: a library of arrays has none to be wrong."""
        declared = excuses.under_test.abilities.get(Ability.GRADIENT)
        if self.attached or declared is not None:
            return self.attached or bool(declared)
        return not leaves_torch(excuses.under_test, detached.case, excuses.device)

    def _settle_dtypes(self, clause_records: Mapping[str, ClauseRecord]) -> None:
        """Tell what never worked, and so is not there, from what raised where it ought to work."""
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
        """Return whether calls in a dtype have worked, or must."""
        return dtype in self.mandatory or self.ran.get(dtype, (0,))[0] > 0

    def counts(self, finding: Finding) -> bool:
        """Return whether a finding counts, by what all calls together have shown."""
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
    """Return whether some tensor of a case has no element."""
    return any(not array.size for array in case.tensors.values())


def _features(trial: Trial) -> set[Feature]:
    """What is special about a call; what is as it is by default is not."""
    case, known = trial.case, trial.loss.parameters_of(trial.form)
    found = {("dtype", case.dtype), ("reduction", case.reduction), ("form", case.form)}
    found |= {("argument", name) for name in case.tensors if name not in trial.form.tensors}
    return found | {
        ("argument", name)
        for name, parameter in known.items()
        if case.parameters[name] != parameter.default
    }
