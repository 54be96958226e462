"""What an implementation supports, as its calls show: arguments, forms, dtypes, gradients."""

from __future__ import annotations

from dataclasses import dataclass, field

from lossspec.cases.case import Case
from lossspec.clauses import clauses
from lossspec.clauses.trial import Deviation, Trial
from lossspec.dtypes import dtype_name
from lossspec.execution.declaration import DTYPES, Ability
from lossspec.execution.devices import dtype_problem
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import Phase, differentiable
from lossspec.judging.deviation import deviation_of
from lossspec.judging.excuses import Excuses
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
    features of its calls. worked : the features of calls that worked. works : the phases of a call
    that have worked in float32, which is mandatory. fails : by phase, the first call in float32
    that did not work, though it ought to.
    """

    unsupported: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    attached: bool = False
    ran: dict[str, list[int]] = field(default_factory=dict)
    absent: dict[str, set[str]] = field(default_factory=dict)
    absent_call: dict[str, tuple[Case, Deviation]] = field(default_factory=dict)
    unimplemented: dict[str, set[Feature]] = field(default_factory=dict)
    worked: set[Feature] = field(default_factory=set)
    works: set[Phase] = field(default_factory=set)
    fails: dict[Phase, tuple[Case, Deviation]] = field(default_factory=dict)

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
        self.absent_call.setdefault(trial.case.dtype, (trial.case, deviation))
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
        if deviation is None or excuses.listed(accepts, trial.case):
            return
        if excuses.inherited(accepts, trial, deviation) is None:
            self.fails[phase] = trial.case, deviation


def must_work(under_test: LossUnderTest, dtype: str) -> bool:
    """Return whether a dtype must work: torch's default, and those that are declared."""
    return dtype == "float32" or (dtype in DTYPES and under_test.declares(Ability(dtype)))


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
