"""Trials: one case, its right answer, and the results of the implementation for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
import torch

from lossspec.cases.axes import separable
from lossspec.cases.case import Case
from lossspec.cases.workloads import Size, axes, workload
from lossspec.dtypes import dtype_name
from lossspec.excuse import Excuse
from lossspec.excuse import NotJudged as NotJudged
from lossspec.execution.call import unsupported_argument
from lossspec.execution.devices import dtype_problem
from lossspec.execution.implementation import LossUnderTest
from lossspec.execution.outcome import Outcome, legible, perform, unimplemented
from lossspec.execution.tensors import dtype_of, first_numbers, to_extended
from lossspec.execution.timeout import STOPS
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import SolvedCase
from lossspec.safe_text import one_line
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import ClassIndex
from lossspec.thresholds import RESULT_NUMBERS

Part = TypeVar("Part")


class Deviation(Exception):
    """A result that contradicts the spec.

    Attributes:
        what: The deviating quantity, such as "the value with 'mean' at [3]".
        got: The result as text; None if there is none.
        want: The expected result as text; None if there is none.
        budget: The allowed error as text; None if the quantity has no budget.
        check: An expression for a script, true for a call that conforms. It may use `value`,
            `gradients`, `error`, `inputs`, `before`, `call()` and `near(got, want, budget)`. None
            if no short script shows the deviation.
        case: The case whose call deviates; None for that of the trial.
        replaced: Arguments that replace those of the case.
        detached: Whether the result has no graph although it should.
        missing: Whether a tensor has no gradient. Reports prefer a wrong gradient to a missing one.
        gradient_of: The tensor whose gradient or derivative deviates; None for a value.
        raised: The type name and the text of the error that a call raised.
        shapes: The shape of the result and the expected one, if they differ.
        accepted: Whether an invalid call, with the arguments in `replaced`, raised nothing.
        numbers: The deviating number and the expected one; of arrays, the pair that differs most.
        compared: All numbers of the result, and the right ones with their budgets.
        repeated: All numbers of a repeated call, and those of the first with the budgets of both;
            None for any other deviation.
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
        repeated: tuple[np.ndarray, Bounded] | None = None,
    ) -> None:
        super().__init__(what)
        self.compared = compared
        self.repeated = repeated
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
        """The deviating quantity without numbers and options, equal before and after shrinking."""
        return re.sub(r"\[.*?\]|'\w*'|-?\d+(\.\d+)?", "", self.what.partition(" at ")[0])

    @property
    def backward(self) -> bool:
        """Whether a gradient deviates. The call text then contains the cotangent."""
        told = re.search(r"gradient|backward|derivative", self.what) is not None
        return told or "gradients[" in (self.check or "")

    @property
    def graph(self) -> bool:
        """Whether a graph is missing or superfluous. The call text then says what requires one."""
        return re.search(r"\bgraph$", self.what) is not None


_NUMBERS = (int, float, np.integer, np.floating, np.ndarray)


class Unsupported(Exception):
    """The error that a clause raises if the implementation lacks something optional.

    Attributes:
        excuse: The reason under which the case is counted.
    """

    def __init__(self, what: str, excuse: Excuse = Excuse.NOT_SUPPORTED) -> None:
        super().__init__(what)
        self.excuse = excuse


@dataclass
class Trial:
    """One case with its right answer and the results of the implementation.

    The result of the case itself is computed once and shared by all clauses.

    Attributes:
        under_test: The implementation under test.
        solved: The case and its right answer.
        device: The device on which the calls run, such as "cuda:0".
        worst: The largest ratio of error to budget so far.
        figures: Other measurements for the report, as JSON data.
        bar: The ratio of error to budget above which a comparison deviates.
        asked: How many numbers were judged, and how many were not, by reason; None for no count.
        skipped: The number of parts of the case that were not judged, by reason.
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
        """The loss."""
        return self.under_test.loss

    @property
    def form(self) -> Form:
        """The form of the loss that the case calls."""
        return self.loss.form(self.case.form)

    @property
    def case(self) -> Case:
        """The case."""
        return self.solved.case

    @property
    def expected(self) -> Expected:
        """The right answer to the case, for any reduction and cotangent."""
        return self.solved.expected

    @property
    def separable(self) -> bool:
        """Whether parts of the batch are valid batches: no tensor without that axis was settled."""
        return separable(self.loss, self.case)

    @property
    def limited(self) -> bool:
        """Whether the documentation promises only a single backward with these parameters."""
        known = self.loss.parameters_of(self.form)
        return any(self.case.parameters[name] in known[name].limited for name in known)

    @property
    def permutable(self) -> bool:
        """Whether the classes may be renumbered."""
        listed = self.form.lists_classes(self.case.shape)
        return self.loss.exchangeable and not listed and not self._ordered_along(self.loss.classes)

    def _ordered_along(self, axis: str) -> bool:
        """Return whether the role of a tensor gives the order along an axis a meaning."""
        return any(
            isinstance(role, Constrained)
            and role.ordered
            and (at := role.axis(axes)) is not None
            and axes[at] == axis
            for role, axes in zip(self.form.tensors.values(), self.case.shape.inputs, strict=True)
        )

    def ones(self, name: str) -> np.ndarray | None:
        """Return ones for an optional tensor; None if its shape has no axis in this case."""
        first = next(iter(self.case.tensors.values()))
        role = self.loss.options[name]
        shape, dtype = role.shape or "", role.dtypes[0] if role.integer else first.dtype
        if not shape.startswith("("):
            return np.ones(first.shape, dtype)
        sizes = self.case.axis_sizes(self.loss)
        axes = self.case.shape.axes(shape)
        return np.ones([sizes[axis] for axis in axes], dtype) if axes else None

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Every tensor of the case that has a gradient by the documentation."""
        roles = self.loss.roles(self.form)
        names = self.case.tensors
        return tuple(n for n in names if roles[n].differentiable and not roles[n].integer)

    @cached_property
    def conforms(self) -> bool:
        """Whether value and gradients are right, as the clauses `value` and `gradient` require."""
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
        """Whether the case returned a tensor that is small enough to read.

        Clause `accepts` reports a missing tensor, and clause `result-shape` one that is too large.
        """
        outcome = self.outcome
        given = outcome.returned and isinstance(outcome.value, torch.Tensor)
        return given and not outcome.oversized

    @property
    def precise(self) -> bool:
        """Whether the result, if any, has the dtype that clause `result-dtype` requires."""
        return not self.worked or dtype_of(self.outcome.value) == self.case.dtype

    @property
    def tolerates_refusal(self) -> bool:
        """Whether the documentation neither promises nor rules out a dtype in the case."""
        return any(
            isinstance(role, ClassIndex) and dtype_name(self.case.tensors[name]) in role.tolerated
            for name, role in self.form.tensors.items()
        )

    @cached_property
    def outcome(self) -> Outcome:
        """The outcome of the case, forward and backward."""
        return perform(self.under_test, self.case, self.device)

    def allows(self, case: Case) -> bool:
        """Return whether a case made from this one has allowed sizes and breaks no rule."""
        sizes = case.axis_sizes(self.loss)
        if not self.loss.allows(self.loss.form(case.form), sizes, case.parameters):
            return False
        return case.broken_rule(self.loss) is None

    def holds(self, dtype: str) -> bool:
        """Return whether the device supports a dtype."""
        return dtype_problem(self.device, dtype) is None

    def under(self, reduction: str) -> np.ndarray | None:
        """Return the value under a reduction, in longdouble; None if there is none."""
        if reduction == self.case.reduction:
            return self.number(self.outcome)
        if reduction not in self._values:
            other = self.case.with_(reduction=reduction)
            outcome = perform(self.under_test, other, self.device, backward=False)
            self._values[reduction] = self.number(outcome)
        return self._values[reduction]

    def fresh(self, **changes: Any) -> Outcome:
        """Run the case with some fields changed, forward and backward."""
        return perform(self.under_test, self.case.with_(**changes), self.device)

    def can(self, reduction: str) -> bool:
        """Return whether the implementation takes this reduction."""
        return unsupported_argument(self.under_test, self.case.with_(reduction=reduction)) is None

    def attempt(self, **replaced: Any) -> Outcome:
        """Run the case with arguments replaced, forward and backward."""
        return perform(self.under_test, self.case, self.device, replaced=replaced)

    def refusal(self, **replaced: Any) -> Outcome:
        """Run the case forward with arguments replaced such that it must raise.

        Backward is left out: if an invalid call did not raise, it may write out of bounds there.
        """
        return perform(self.under_test, self.case, self.device, backward=False, replaced=replaced)

    def number(self, outcome: Outcome) -> np.ndarray | None:
        """Return the value of a call in longdouble; None if it is missing or too large to read.

        Clause `accepts` reports a missing tensor, and clause `result-shape` one that is too large.
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
        """Compare numbers with the right ones, and raise Deviation if one exceeds its budget.

        If the value of the case itself has another shape, clause `result-shape` reports it.

        Args:
            got: The numbers to judge.
            want: The right numbers and their budgets.
            what: The quantity, for the report, such as "the value with 'mean'".
            of: The expression for the quantity in a script that calls `case`; None if that call
                does not show the deviation.
            case: The case whose call gave the numbers; None for that of the trial.
            gradient_of: The tensor whose gradient was compared; None for a value.

        Returns:
            Whether some budget was narrow enough for a wrong number to show.

        Raises:
            Deviation: The shape differs, or an error exceeds `bar` times its budget.
        """
        if got.shape != want.exact.shape:
            if of == "value" and case is None:
                return False  # clause `result-shape` reports it
            shapes = got.shape, want.exact.shape
            raise Deviation(
                f"the shape of {what}",
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
    """Return the value of a call; raise NotJudged if there is none."""
    if number is None:
        raise NotJudged(Excuse.CALL_FAILS)
    return number


def any_judged(trial: Trial, judge: Callable[[Part], bool], parts: Iterable[Part]) -> bool:
    """Judge the parts of a case one after the other.

    A part for which `judge` raises NotJudged is counted in the trial's `skipped`.

    Args:
        trial: The trial of the case.
        judge: Judges a part, and returns whether a wrong result would have shown.
        parts: The parts of the case.

    Returns:
        Whether a wrong result would have shown in at least one part.

    Raises:
        NotJudged: No part was judged. The reason is that of the first part.
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
    """Return the result of a variant of the case's call; if that raises, raise `failed`."""
    try:
        return call()
    except (NotJudged, *STOPS):
        raise
    except BaseException as error:
        raise failed(what, error, want) from None


def tensor_of(call: Callable[[], Any], what: str) -> torch.Tensor:
    """Return the tensor of a variant of the case's call; raise Deviation if it returns none."""
    return as_tensor(returned(call, what), what)


def as_tensor(result: Any, what: str) -> torch.Tensor:
    """Return the result of a variant of the case's call; raise Deviation if it is no tensor.

    Args:
        result: The result.
        what: The call, such as "the second call".
    """
    if not isinstance(result, torch.Tensor):
        raise Deviation(f"{what} returned no tensor", type(result).__name__, "a tensor", check=None)
    return result


def failed(
    what: str,
    raised: BaseException,
    want: str = "a tensor",
    *,
    check: str | None = None,
    case: Case | None = None,
    replaced: Mapping[str, Any] | None = None,
) -> Deviation | Unsupported:
    """Return the exception that a clause raises because one of its calls raised an error.

    Every clause uses this function, so that all of them treat NotImplementedError alike.

    Args:
        what: The call, such as "the second call".
        raised: The error that it raised.
        want: The expected result, for the report.
        check: An expression for a script, true for a call that conforms.
        case: The case whose call raised; None for that of the trial.
        replaced: Arguments that replace those of the case.

    Returns:
        `Unsupported` for a NotImplementedError, and `Deviation` for any other error.
    """
    error = legible(raised)
    kind, text = type(error).__name__, str(error)[:200]
    if unimplemented(error):
        text = one_line(text)
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
    """Return both numbers, or the pair of elements that differs most; None for anything else."""
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
    """Format a value for a report, a number with the given significant digits."""
    if isinstance(value, torch.Tensor) and value.numel() > RESULT_NUMBERS:
        return f"{first_numbers(value, 4)} ... of shape {list(value.shape)}"
    if isinstance(value, np.floating | float):
        return f"{float(value):.{digits}g}"
    return str(value)


def repeated_result(
    again: torch.Tensor, first: torch.Tensor, want: Bounded | None
) -> tuple[np.ndarray, Bounded] | None:
    """Return a repeated result, and the first one with twice its budget.

    Args:
        again: The repeated result.
        first: The first result.
        want: The right answer; None if the result must keep its bits on every device.
    """
    if want is None or again.shape != first.shape or first.shape != want.exact.shape:
        return None
    # At a kink each call may take another one-sided derivative.
    budget = 2 * want.budget + (want.high - want.low)
    return to_extended(again), Bounded.around(to_extended(first), budget, want.dtype)


def plain_trial(trial: Trial) -> Trial:
    """Return a trial of a small default call, for which fused kernels are written first."""
    return Trial(trial.under_test, _plain_call(trial.loss), trial.device, bar=trial.bar)


@lru_cache(maxsize=64)
def _plain_call(loss: Loss) -> SolvedCase:
    """Return a default call of a few rows in float32 and its right answer."""
    dtype = loss.default_dtype
    return SolvedCase(loss, workload(loss, axes(loss, Size("few", 15, 5, None, "")), dtype, 0))
