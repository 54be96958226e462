"""A trial: one case, its right answer, and what the implementation does with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from lossspec.cases.axes import separable
from lossspec.cases.case import Case
from lossspec.dtypes import dtype_name
from lossspec.excuse import Excuse
from lossspec.execution.call import unsupported_argument
from lossspec.execution.devices import dtype_problem
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import Outcome, legible, perform, unimplemented
from lossspec.execution.tensors import dtype_of, first_numbers, to_extended
from lossspec.execution.timeout import STOPS
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import ClassIndex
from lossspec.thresholds import RESULT_NUMBERS

Part = TypeVar("Part")


class Deviation(Exception):
    """A clause is broken: what came, what was wanted, how much rounding would have explained.

    case, replaced : the call that shows it, where that is not the trial's own. check : an
    expression for a script, true of a call that conforms; it may use `value`, `gradients`, `error`,
    `inputs`, `before`, `call()` and `near(got, want, budget)`. None where no short script shows it.
    detached : whether what is wrong is that the result carries no graph. missing : that some tensor
    has no gradient, which must not hide that of another is wrong. gradient_of : the tensor whose
    derivative deviates. raised : the name of the type and the text of the error that a call
    raised. shapes : the shape that came and the one that was wanted, where they differ. accepted :
    whether an invalid call, with the arguments of `replaced`, raised nothing. numbers : the number
    that came and the one that was wanted. compared : all numbers that came and the right ones.
    """

    def __init__(
        self,
        what: str,
        got: Any = None,
        want: Any = None,
        budget: Any = None,
        *,
        check: str | None,
        case: Case | None = None,
        replaced: Mapping[str, Any] | None = None,
        detached: bool = False,
        missing: bool = False,
        gradient_of: str | None = None,
        raised: tuple[str, str] | None = None,
        shapes: tuple[Sequence[int], Sequence[int]] | None = None,
        accepted: bool = False,
        compared: tuple[np.ndarray, Bounded] | None = None,
    ) -> None:
        super().__init__(what)
        self.compared = compared
        self.gradient_of = gradient_of
        self.raised = raised
        self.shapes = None if shapes is None else (tuple(shapes[0]), tuple(shapes[1]))
        self.numbers = _worst_pair(got, want)
        self.accepted = accepted
        self.detached = detached
        self.missing = missing
        self.what = what
        digits = next((n for n in (9, 17) if _text(got, n) != _text(want, n)), 9)
        self.got = None if got is None else _text(got, digits)
        self.want = None if want is None else _text(want, digits)
        self.budget = None if budget is None else _text(budget)
        self.check = check
        self.case = case
        self.replaced = dict(replaced or {})

    @property
    def kind(self) -> str:
        """What broke, without numbers and options: the same for a case and a simpler one."""
        return re.sub(r"\[.*?\]|'\w*'|-?\d+(\.\d+)?", "", self.what.partition(" at ")[0])

    @property
    def backward(self) -> bool:
        """Whether a gradient is what deviates, so that the cotangent belongs to the call."""
        told = re.search(r"gradient|backward|derivative", self.what) is not None
        return told or "gradients[" in (self.check or "")


class NotJudged(Exception):
    """A clause cannot judge the case after all; the message says why, `excuse` how it counts.

    For what only shows while a clause judges; what shows before is a `Precondition`.
    """

    def __init__(self, excuse: Excuse, why: str = "") -> None:
        super().__init__(why or excuse.says)
        self.excuse = excuse


_NUMBERS = (int, float, np.integer, np.floating, np.ndarray)


class Unsupported(Exception):
    """The implementation has no such thing, which no contract asks for; the message says what.

    excuse : how the case counts.
    """

    def __init__(self, what: str, excuse: Excuse = Excuse.NOT_SUPPORTED) -> None:
        super().__init__(what)
        self.excuse = excuse


@dataclass
class Trial:
    """What a clause sees. Calls and right answers are made once and shared by all clauses.

    worst : the largest error ÷ budget that the clause saw. figures : what else it measured, for the
    report; plain data. bar : the error ÷ budget from which it deviates. asked : how many numbers
    the clause asked for, and how many it did not, by reason; None where nobody wants to know.
    skipped : the parts of the case that the clause did not judge, by reason.
    """

    under_test: LossUnderTest
    solved: SolvedCase
    device: str = "cpu"
    worst: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    bar: float = 1.0
    asked: Counter[str] | None = None
    skipped: Counter[Excuse] = field(default_factory=Counter)
    _values: dict[str, np.ndarray | None] = field(default_factory=dict)

    @property
    def loss(self) -> Loss:
        """The loss under trial."""
        return self.under_test.loss

    @property
    def form(self) -> Form:
        """The way in which the case calls it."""
        return self.loss.form(self.case.form)

    @property
    def case(self) -> Case:
        """The call under trial."""
        return self.solved.case

    @property
    def expected(self) -> Expected:
        """Its right answer, under any reduction and cotangent."""
        return self.solved.expected

    @property
    def separable(self) -> bool:
        """Whether the batch can be cut: `settle` has fitted no tensor without a batch axis."""
        return separable(self.loss, self.case)

    @property
    def limited(self) -> bool:
        """Whether the documentation promises no more than one plain backward."""
        known = self.loss.parameters_of(self.form)
        return any(self.case.parameters[name] in known[name].limited for name in known)

    @property
    def permutable(self) -> bool:
        """Whether the classes may be renumbered."""
        return self.loss.exchangeable and not self.form.lists_classes(self.case.shape)

    def ones(self, name: str) -> np.ndarray | None:
        """An optional tensor of ones, in the largest shape that its contract allows."""
        first = next(iter(self.case.tensors.values()))
        shape = self.loss.options[name].shape or ""
        if not shape.startswith("("):
            return np.ones_like(first)
        sizes = self.case.axis_sizes(self.loss)
        axes = self.case.shape.axes(shape)
        return np.ones([sizes[axis] for axis in axes], first.dtype) if axes else None

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Every tensor of the case that the documentation promises a gradient of."""
        roles = self.loss.roles(self.form)
        names = self.case.tensors
        return tuple(n for n in names if roles[n].differentiable and not roles[n].integer)

    @cached_property
    def conforms(self) -> bool:
        """Whether the plain call's value and gradients are right; where not, other clauses tell."""
        got = self.number(self.outcome)
        want = self.expected.value(self.case.reduction)
        if got is None or self.outcome.error is not None or got.shape != want.exact.shape:
            return False
        if (want.error(got) > 1).any():
            return False
        for name, slope in self.expected.gradients().items():
            gradient = self.outcome.gradients.get(name)
            if gradient is not None and (slope.error(to_extended(gradient)) > 1).any():
                return False
        return True

    @property
    def worked(self) -> bool:
        """Whether the case gave a tensor that can be read.

        Clause `accepts` tells where there is none, clause `result-shape` where it is oversized.
        """
        outcome = self.outcome
        given = outcome.returned and isinstance(outcome.value, torch.Tensor)
        return given and not outcome.oversized

    @property
    def precise(self) -> bool:
        """Whether the case's result, if any, has its dtype (clause `result-dtype` tells)."""
        return not self.worked or dtype_of(self.outcome.value) == self.case.dtype

    @property
    def tolerates_refusal(self) -> bool:
        """Whether the case holds a dtype that the documentation neither promises nor rules out."""
        return any(
            isinstance(role, ClassIndex) and dtype_name(self.case.tensors[name]) in role.tolerated
            for name, role in self.form.tensors.items()
        )

    @cached_property
    def outcome(self) -> Outcome:
        """The case itself, forward and backward."""
        return perform(self.under_test, self.case, self.device)

    def allows(self, case: Case) -> bool:
        """Whether the spec allows the sizes of the axes of a case made from this one."""
        return self.loss.allows(
            self.loss.form(case.form), case.axis_sizes(self.loss), case.parameters
        )

    def holds(self, dtype: str) -> bool:
        """Whether the device can hold another dtype than the case's."""
        return dtype_problem(self.device, dtype) is None

    def under(self, reduction: str) -> np.ndarray | None:
        """The value under a reduction, in longdouble; None when there is none."""
        if reduction == self.case.reduction:
            return self.number(self.outcome)
        if reduction not in self._values:
            other = self.case.with_(reduction=reduction)
            outcome = perform(self.under_test, other, self.device, backward=False)
            self._values[reduction] = self.number(outcome)
        return self._values[reduction]

    def fresh(self, **changes: Any) -> Outcome:
        """The case with some fields changed, run anew."""
        return perform(self.under_test, self.case.with_(**changes), self.device)

    def can(self, reduction: str) -> bool:
        """Whether the implementation takes this reduction."""
        return unsupported_argument(self.under_test, self.case.with_(reduction=reduction)) is None

    def attempt(self, **replaced: Any) -> Outcome:
        """The case with arguments replaced, forward and backward."""
        return perform(self.under_test, self.case, self.device, replaced=replaced)

    def refusal(self, **replaced: Any) -> Outcome:
        """The case with arguments replaced so that it must raise: forward only.

        What should have raised may write to memory that is not its own in backward.
        """
        return perform(self.under_test, self.case, self.device, backward=False, replaced=replaced)

    def number(self, outcome: Outcome) -> np.ndarray | None:
        """The value of a call in longdouble; None when there is none that can be read.

        Clause `accepts` tells where there is none, clause `result-shape` where it is oversized.
        """
        if not outcome.returned or not isinstance(outcome.value, torch.Tensor):
            return None
        if outcome.oversized:
            return None
        return to_extended(outcome.value)

    def agree(
        self,
        got: np.ndarray,
        want: Bounded,
        what: str,
        *,
        of: str | None = "value",
        case: Case | None = None,
        gradient_of: str | None = None,
    ) -> bool:
        """Raise Deviation unless `got` is within budget; whether the comparison could tell.

        A plain call's value of another shape is left to clause `result-shape`.

        of : the expression for what was compared, in a script that runs `case`; None where a plain
        call of it does not show the deviation. gradient_of : the tensor whose derivative it is.
        """
        if got.shape != want.exact.shape:
            if of == "value" and case is None:
                return False  # clause `result-shape` tells
            shapes = got.shape, want.exact.shape
            raise Deviation(
                f"{what}: its shape",
                *shapes,
                check=None,
                case=case,
                gradient_of=gradient_of,
                shapes=shapes,
            )
        if of is not None and want.free_axis is not None:
            of = f"({of}.double() - {of}.double().mean({want.free_axis}, True))"
        got, want = want.settled(got)
        if self.asked is not None:
            self.asked += want.asked()
        error = want.error(got)
        if not error.size:
            return False
        worst = float(error.max())
        self.worst = max(self.worst, worst)
        if worst > self.bar:
            at = np.unravel_index(int(error.argmax()), error.shape)
            place = f" at {list(map(int, at))}" if at else ""
            exact, budget = float(want.exact[at]), float(want.budget[at])
            index = f"[{', '.join(str(int(i)) for i in at)}]" if at else ""
            raise Deviation(
                f"{what}{place}",
                got[at],
                want.exact[at],
                want.budget[at],
                check=of and f"near({of}{index}, float({str(exact)!r}), {budget!r})",
                case=case,
                gradient_of=gradient_of,
                compared=(got, want),
            )
        return want.informative


def required(number: np.ndarray | None) -> np.ndarray:
    """Return what a call gave; where it gave no number, the clause does not judge the case."""
    if number is None:
        raise NotJudged(Excuse.CALL_FAILS)
    return number


def any_judged(trial: Trial, judge: Callable[[Part], bool], parts: Iterable[Part]) -> bool:
    """Judge parts of a case, and return whether one of them could have told right from wrong.

    A part for which `judge` raises NotJudged is counted in the trial's `skipped`. The case is not
    judged where no part is, for the reason of the first one, or because there is none.
    """
    judgements: list[bool] = []
    reasons: list[NotJudged] = []
    for part in parts:
        try:
            judgements.append(judge(part))
        except NotJudged as reason:
            trial.skipped[reason.excuse] += 1
            reasons.append(reason)
    if not judgements:
        raise reasons[0] if reasons else NotJudged(Excuse.NOT_ABOUT)
    return any(judgements)


def returned(call: Callable[[], Any], what: str, want: str = "a tensor") -> Any:
    """Return the result of a call that worked in another way; where it raises, raise `failed`."""
    try:
        return call()
    except STOPS:
        raise
    except BaseException as error:
        raise failed(what, error, want) from None


def failed(
    what: str,
    raised: BaseException,
    want: str = "a tensor",
    *,
    check: str | None = None,
    case: Case | None = None,
    replaced: Mapping[str, Any] | None = None,
) -> Deviation | Unsupported:
    """Return what a clause raises when a call of its own raised an error.

    A clause that reports an error goes through here, so that NotImplementedError is unsupported in
    every clause and any other error is a deviation.
    """
    error = legible(raised)
    kind, text = type(error).__name__, str(error)[:200]
    if unimplemented(error):
        told = f'{what} raised {kind}: "{text}"' if text else f"{what} raised {kind}"
        return Unsupported(told, Excuse.NOT_IMPLEMENTED)
    return Deviation(
        f"{what} raised",
        f"{kind}: {text}",
        want,
        check=check,
        case=case,
        replaced=replaced,
        raised=(kind, text),
    )


def _worst_pair(got: Any, want: Any) -> tuple[float, float] | None:
    """The two numbers, of arrays those that differ most; None for anything else."""
    if any(isinstance(x, bool) or not isinstance(x, _NUMBERS) for x in (got, want)):
        return None
    came, wanted = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if came.shape != wanted.shape or not came.size:
        return None
    with np.errstate(all="ignore"):
        off = np.where(np.isfinite(came), np.abs(came - wanted), np.inf)
    at = np.unravel_index(int(off.argmax()), off.shape)
    return float(came[at]), float(wanted[at])


def _text(value: Any, digits: int = 9) -> str:
    """As a person reads it: a number with so many digits."""
    if isinstance(value, torch.Tensor) and value.numel() > RESULT_NUMBERS:
        return f"{first_numbers(value, 4)} ... of shape {list(value.shape)}"
    if isinstance(value, np.floating | float):
        return f"{float(value):.{digits}g}"
    return str(value)
