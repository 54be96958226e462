"""The right answer of a call on your own tensors, and a check of a result against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.errors import ArgumentTypeError, UnknownName
from lossspec.execution.layouts import without_numbers
from lossspec.execution.tensors import to_extended
from lossspec.expectation.agreement import (
    Agreement,
    Comparison,
    compared_gradient,
    compared_value,
)
from lossspec.expectation.binding import bound, widened
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.parts import GradientPart, Solution
from lossspec.safe_text import one_line
from lossspec.spec.catalogue import find
from lossspec.spec.loss import Loss


def expect(
    loss: str | Loss,
    *tensors: Any,
    reduction: str | None = None,
    upstream: Any = None,
    computed_in: str | torch.dtype | None = None,
    **keywords: Any,
) -> Answer:
    """Return the right answer of a loss on your own tensors, for `Answer.check`.

    Each part of the answer is computed when it is first read. A large call is solved in pieces.
    Beside a copy of the tensors, that takes about 64 MiB of memory and 100 bytes for each element
    of the unreduced loss. A tensor that all rows share takes 80 bytes more for each number, if its
    gradient is read. A call that cannot be cut, or a single row, may take a few GiB.

    Args:
        loss: The name of a function or class, or a `Loss`.
        *tensors: The tensors that torch's function takes by position, in one dtype of the spec
            and on any device. Arrays of numpy are accepted. If the spec applies a function to a
            tensor first (`through`), pass the input of that function: for `log_probs` of ctc_loss
            pass the scores before log_softmax. Log-probabilities can be passed as scores, since
            log_softmax does not change them.
        reduction: A reduction of the loss; its default if left out.
        upstream: The cotangent, in the shape of the result or one number; ones if left out.
        computed_in: A wider dtype in which the implementation computes. The budget is then that
            of this dtype, plus one rounding of each result to the tensors' dtype. If left out,
            the budget is that of the tensors' dtype.
        **keywords: Optional tensors and parameters, by torch's names.

    Raises:
        ArgumentError: The tensors or values contradict the spec, or the call needs too much
            memory.
        ArgumentTypeError: An argument has a type or dtype that the spec does not allow.
        UnknownName: A name is not known; the message lists similar ones.

    Example:
        >>> logits, target = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([1, 0])
        >>> answer = lossspec.expect("cross_entropy", logits, target, label_smoothing=0.1)
        >>> bool(answer.check(cross_entropy(logits, target, label_smoothing=0.1)))
        True
    """
    spec = spec_of(loss)
    chosen = spec.reductions[0] if reduction is None else reduction
    case = bound(spec, tensors, keywords, chosen, upstream)
    if computed_in is None:
        return Answer(spec, case)
    return Answer(spec, widened(spec, case, computed_in), rounded_to=case.dtype)


def spec_of(loss: Any) -> Loss:
    """Return the spec of a loss that is given by name, or a given spec itself.

    Raises:
        ArgumentTypeError: The argument is neither a name nor a `Loss`.
        UnknownName: No loss has the name.
    """
    if isinstance(loss, Loss):
        return loss
    if not isinstance(loss, str):
        raise ArgumentTypeError(
            "the first argument, loss, must be a name or a lossspec.Loss, got "
            f"{one_line(repr(loss))}"
        )
    return find(loss)


class Answer:
    """The right value and gradients of one call, each number with its budget.

    A number is right if its error is at most its budget. Numbers with an infinite budget are not
    compared. All tensors are float64 on the host, rounded once from extended precision.

    Attributes:
        loss: The spec of the loss.
        case: The call as a case.
        rounded_to: The dtype of the results, if the case has a wider one; else None.
    """

    def __init__(self, loss: Loss, case: Case, rounded_to: str | None = None) -> None:
        self.loss, self.case, self.rounded_to = loss, case, rounded_to
        self._solution = Solution(loss, case)

    @property
    def value(self) -> torch.Tensor:
        """The exact result, in the shape of the result."""
        return _double(self._value.exact)

    @property
    def budget(self) -> torch.Tensor:
        """The largest accepted error of each number of the result."""
        return _double(self._value.budget)

    @property
    def gradients(self) -> dict[str, torch.Tensor]:
        """The exact gradient of each differentiable tensor; nan for the mean of no elements."""
        return {name: _double(exact) for name, (exact, _) in self._gradients.items()}

    @property
    def gradient_budgets(self) -> dict[str, torch.Tensor]:
        """The largest accepted error of each number of the gradients."""
        return {name: _double(budget) for name, (_, budget) in self._gradients.items()}

    def check(self, result: Any, gradients: Mapping[str, Any] | None = None) -> Agreement:
        """Compare a result and gradients with the right answer.

        The result may have any dtype; ulps are those of the call's dtype. A wrong result does not
        raise.

        Args:
            result: The value that the implementation returned.
            gradients: The gradients to check, by the names of their tensors.

        Returns:
            An `Agreement`, which is true if all numbers are right.

        Raises:
            UnknownName: `gradients` names a tensor that has no gradient.
            ArgumentTypeError: `gradients` is not a mapping.
        """
        given = self._given(gradients)
        found: dict[str, Comparison] = {}
        numbers = {}
        for name, gradient in given.items():
            shape = self.case.tensors[name].shape
            problem = _problem(gradient, shape)
            if problem is not None:
                found[name] = Comparison(f"gradient of {name}", problem)
            else:
                numbers[name] = gradient
        for part in self._parts(tuple(numbers)):
            got = to_extended(_tensor(numbers[part.name])[part.index])
            one = compared_gradient(part, got, self.case.tensors[part.name][part.index])
            found[part.name] = found[part.name].plus(one) if part.name in found else one
        comparisons = (self._checked_value(result), *(found[name] for name in given))
        return Agreement(comparisons)

    #: Another name of `check`, for `assert call.expected.agrees(result)`.
    agrees = check

    def __repr__(self) -> str:
        shapes = ", ".join(f"{n} {list(x.shape)}" for n, x in self.case.tensors.items())
        case = self.case
        return f"<Answer of {self.loss.name}: {shapes}, {case.dtype}, reduction={case.reduction!r}>"

    @cached_property
    def _value(self) -> Bounded:
        expected, reduction = self._solution.expected, self.case.reduction
        value = expected.value(reduction)
        if self.rounded_to is not None:
            value = value.rounded_to(self.rounded_to)
        if not expected.counted.any() and expected.whole.undivided(reduction) is not None:
            return replace(value, budget=np.zeros_like(value.budget))  # it must be as declared
        return value

    @cached_property
    def _gradients(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        names = self.case.requires_grad
        found = {n: _blank(self.case.tensors[n].shape) for n in names}
        for part in self._parts(names):
            if part.bounded is not None:
                exact, budget = found[part.name]
                exact[part.index], budget[part.index] = part.bounded.exact, part.bounded.budget
        return found

    def _parts(self, names: tuple[str, ...]) -> Iterator[GradientPart]:
        """Yield the gradients of tensors, with the budget for the dtype of the results."""
        for part in self._solution.gradients(names):
            if self.rounded_to is None or part.bounded is None:
                yield part
            else:
                yield replace(part, bounded=part.bounded.rounded_to(self.rounded_to))

    def _given(self, gradients: Any) -> Mapping[str, Any]:
        known = self.case.requires_grad
        if gradients is None:
            return {}
        if not isinstance(gradients, Mapping):
            like = ", ".join(f"{name!r}: ..." for name in known)
            raise ArgumentTypeError(
                f"gradients must be a mapping from names of tensors to gradients, {{{like}}}, "
                f"got {type(gradients).__name__}"
            )
        for name in gradients:
            if name not in known:
                raise UnknownName("differentiable tensor", str(name), known)
        return gradients

    def _checked_value(self, result: Any) -> Comparison:
        want = self._value
        problem = _problem(result, want.exact.shape)
        if problem is not None:
            return Comparison("value", problem)
        return compared_value(to_extended(_tensor(result)), want, self._solution.expected.whole)


def _problem(got: Any, shape: tuple[int, ...]) -> str | None:
    """Say why there are no numbers to compare; None if there are."""
    if got is None:
        return "got None, want a tensor"
    tensor = _tensor(got)
    if tensor is None:
        return f"got {type(got).__name__}, want a tensor"
    kind = without_numbers(tensor)
    if kind is not None:
        return f"got a {kind} tensor, want plain numbers"
    if tensor.is_complex() or tensor.is_quantized:
        return f"got {str(tensor.dtype).removeprefix('torch.')} numbers, want real ones"
    if tuple(tensor.shape) != shape:
        return f"got the shape {list(tensor.shape)}, want {list(shape)}"
    return None


def _tensor(got: Any) -> Any:
    """Convert a result to a tensor; None if it is neither a tensor, an array nor a number."""
    if isinstance(got, torch.Tensor):
        return got
    if isinstance(got, float | int) and not isinstance(got, bool):
        return torch.tensor(got, dtype=torch.float64)
    if isinstance(got, np.ndarray | np.generic):
        try:
            return torch.from_numpy(np.array(got))
        except TypeError:
            return None
    return None


def _blank(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.full(shape, np.nan), np.full(shape, np.inf)


def _double(numbers: np.ndarray) -> torch.Tensor:
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.array(numbers, np.float64))
