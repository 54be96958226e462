"""Clauses on the reductions: how `sum` and `mean` relate to the unreduced loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from lossspec.cases.axes import part_along
from lossspec.clauses import Judgement, clause, independent
from lossspec.clauses.precondition import (
    Precondition,
    has_axes,
    has_its_dtype,
    precondition,
    separable,
    some_counted,
    takes_reduction,
)
from lossspec.clauses.room import require_room
from lossspec.clauses.trial import (
    Deviation,
    NotJudged,
    Trial,
    Unsupported,
    any_judged,
    failed,
    required,
)
from lossspec.dtypes import precision
from lossspec.excuse import Excuse
from lossspec.execution.outcome import perform
from lossspec.execution.torch_private import set_deterministic
from lossspec.oracle.bounds import Bounded, roundings
from lossspec.spec.loss import Loss, SizeRule
from lossspec.spec.roles import Surface
from lossspec.thresholds import (
    MEAN_OF_MANY_COPIES,
    MEAN_OF_MANY_ELEMENTS,
    MEAN_OF_MANY_MARGIN,
    MEAN_OF_MANY_ROOM,
    SLACK,
)


def _reduces(name: str):  # type: ignore[no-untyped-def]  # a predicate for `clause`
    def applies(loss: Loss, surface: Surface) -> bool:
        return name in loss.reductions and "none" in loss.reductions

    return applies


def _own_reductions(name: str) -> list[Precondition]:
    return [takes_reduction(name), takes_reduction("none"), has_its_dtype]


def _derived(trial: Trial, reduction: str) -> Judgement:
    """Compare a reduced result with the implementation's own unreduced result.

    The unreduced result is summed, weighted and divided here, in extended precision.

    Returns:
        Whether a wrong reduced result would have shown.
    """
    elements, got = required(trial.under("none")), required(trial.under(reduction))
    expected = trial.expected
    if got.shape != () or elements.shape != expected.losses.shape:
        raise NotJudged(Excuse.CALL_FAILS)
    if not elements.size:
        raise NotJudged(Excuse.NOT_ABOUT)
    total, _, divisor, divisor_error = expected.divided(reduction)
    shown = trial.case.with_(reduction=reduction)
    if expected.counted.any() and expected.whole.undivided(reduction) is not None:
        what = f"{reduction!r} with a divisor of 0"
        trial.agree(got, expected.value(reduction), what, case=shown)
        return True
    if not np.isfinite(elements).all() or divisor == 0:
        return False
    dtype = precision(trial.case.dtype)
    with np.errstate(all="ignore"):
        unreduced = elements
        elements = elements * expected.shares if reduction == "mean" else elements
        size = np.abs(elements).sum()
        if not size < dtype.largest_sum:
            return False
        # As in `Expected.divided`, and one more rounding of each element when `none` returned it.
        added = roundings(elements.size, dtype, expected.parts) + 2
        budget = dtype.unit * added * size / abs(divisor)
        if expected.parts > 1:
            # An implementation that adds up parts of the batch computes each part as a smaller
            # matrix product. The elements of both results may then differ within their budgets.
            shares = expected.shares if reduction == "mean" else 1
            budget = budget + 2 * (expected.budget * np.abs(shares)).sum() / abs(divisor)
        exact, right = elements.sum() / divisor, total / divisor
        if abs(got - right) < abs(got - exact) and _may_be_recomputed(trial, unreduced):
            exact = right
        budget = budget + abs(exact) * (divisor_error / abs(divisor) + dtype.unit)
        smallest = dtype.smallest * elements.size / abs(divisor) + dtype.negligible
    return trial.agree(
        got,
        Bounded.around(exact, SLACK * (budget + smallest), trial.case.dtype),
        f"{reduction!r} of the implementation's own 'none'",
        case=shown,
    )


def _may_be_recomputed(trial: Trial, elements: np.ndarray) -> bool:
    """Return whether a right implementation may add up other losses than `none` returns.

    In 16 bits it may compute those in float32, and so lose less than `none` does.
    """
    wide = precision(trial.case.dtype).unit <= precision("float32").unit
    return not wide and bool((trial.expected.value("none").error(elements) <= 1).all())


@clause(_reduces("sum"), requires=_own_reductions("sum"))
def sum_of_none(trial: Trial) -> Judgement:
    """`sum` returns the sum of the losses under `none`."""
    return _derived(trial, "sum")


@clause(_reduces("mean"), requires=_own_reductions("mean"))
def mean_divisor(trial: Trial) -> Judgement:
    """`mean` returns the sum of the losses under `none`, weighted and divided as documented."""
    return _derived(trial, "mean")


#: Values of `size_average` and `reduce`, and the reduction that they are documented to mean.
DEPRECATED = (
    (True, None, "mean"),
    (False, None, "sum"),
    (None, True, "mean"),
    (None, False, "none"),
    (False, True, "sum"),
    (True, False, "none"),
    (False, False, "none"),
)


@clause(lambda loss, surface: loss.deprecated_reductions, enough=8)
def deprecated_reductions(trial: Trial) -> Judgement:
    """The deprecated `size_average` and `reduce` override the reduction, if both are accepted."""
    if not {"size_average", "reduce"} <= (trial.under_test.keywords or set()):
        raise Unsupported("it does not take both size_average and reduce")
    if not trial.worked:
        raise NotJudged(Excuse.CALL_FAILS)

    def judged(flags: tuple[bool | None, bool | None, str]) -> bool:
        size_average, reduce, reduction = flags
        want = required(trial.under(reduction))
        outcome = trial.attempt(size_average=size_average, reduce=reduce)
        got = trial.number(outcome)
        replaced = {"size_average": size_average, "reduce": reduce}
        if got is None and outcome.error is not None:
            what = f"size_average={size_average} and reduce={reduce}"
            raise failed(what, outcome.error, str(want), replaced=replaced)
        if got is None or not _same(trial, reduction, got, want):
            raise Deviation(
                f"size_average={size_average} and reduce={reduce} do not give {reduction!r}",
                got,
                want,
                check=None,
                replaced=replaced,
            )
        return trial.expected.losses.size > 1

    return any_judged(trial, judged, DEPRECATED)


def _same(trial: Trial, reduction: str, got: np.ndarray, want: np.ndarray) -> bool:
    """Return whether two results of the same call differ by at most the sum of their budgets."""
    if np.array_equal(got, want, equal_nan=True):
        return True
    budget = 2 * trial.expected.value(reduction).budget
    near = got.shape == want.shape == budget.shape and np.isfinite(budget).all()
    return near and bool((np.abs(got - want) <= budget).all())


@clause(_reduces("batchmean"), requires=(has_axes, *_own_reductions("batchmean")))
def batchmean_divisor(trial: Trial) -> Judgement:
    """`batchmean` returns the sum of the losses under `none`, divided by the batch size."""
    return _derived(trial, "batchmean")


@contextmanager
def _poisoned() -> Iterator[None]:
    """Make torch fill new memory with NaN, so that uninitialised memory is not right by chance.

    Torch does so in deterministic mode (`torch.utils.deterministic.fill_uninitialized_memory`).
    """
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    set_deterministic(True, warn_only=True)
    try:
        yield
    finally:
        set_deterministic(before, warn_only=warn)


@precondition()
def _nothing_counts(trial: Trial) -> bool:
    """The loss is empty, or every element of it is ignored."""
    return not trial.expected.counted.any()


def _may_be_nothing(loss: Loss, surface: Surface) -> bool:
    return loss.ignores or any(
        _may_be_0(form.sizes.get(axis))
        for form in loss.forms
        for contract in form.contracts
        for axis in contract.result
    )


def _may_be_0(rule: Sequence[int] | SizeRule | None) -> bool:
    """Return whether the sizes of an axis include 0, which they do without a rule."""
    return rule is None or callable(rule) or 0 in rule


@clause(_may_be_nothing, enough=40, empty=True, requires=[_nothing_counts])
def nothing_left(trial: Trial) -> Judgement:
    """With no counted elements (empty input, or all ignored), `sum` returns 0, `mean` returns NaN
    or the value that the spec declares, and `none` returns 0 for ignored elements."""
    wants = {"sum": 0.0, "mean": trial.expected.whole.of_nothing, "none": 0.0}

    def judged(reduction: str) -> bool:
        if not trial.can(reduction):
            raise NotJudged(Excuse.NOT_SUPPORTED)
        with _poisoned():
            got = required(trial.number(trial.fresh(reduction=reduction)))
        if got.shape != (trial.expected.losses.shape if reduction == "none" else ()):
            raise NotJudged(Excuse.CALL_FAILS)
        want = wants[reduction]
        if want is None:
            raise NotJudged(Excuse.UNDEFINED)
        same = np.isnan(got) if np.isnan(want) else got == want
        if not np.all(same):
            wrong = got.ravel()[0]
            raise Deviation(
                f"{reduction!r} with no counted elements",
                wrong,
                want,
                check=f"near(value.flatten()[0], float({str(want)!r}), 0.0)",
                case=trial.case.with_(reduction=reduction),
            )
        return True

    return any_judged(trial, judged, [name for name in wants if name in trial.loss.reductions])


#: The largest finite number of float16.
LARGEST = precision("float16").largest


def _averages_halves(loss: Loss, surface: Surface) -> bool:
    halves = "float16" in loss.dtypes
    return independent(loss, surface) and halves and _reduces("mean")(loss, surface)


@precondition()
def _in_float16(trial: Trial) -> bool:
    """The call is in float16."""
    return trial.case.dtype == "float16"


@precondition(Excuse.TOO_EXPENSIVE)
def _small_beside_many(trial: Trial) -> bool:
    """The unreduced loss is not empty, and 70,000 elements are at least 64 copies of it."""
    return 0 < trial.expected.losses.size <= MEAN_OF_MANY_ELEMENTS / MEAN_OF_MANY_COPIES


@precondition(Excuse.TOO_UNCERTAIN)
def _mean_known(trial: Trial) -> bool:
    """The budget is less than a tenth of the mean."""
    return trial.expected.value("mean").informative


@precondition()
def _sum_of_many_overflows(trial: Trial) -> bool:
    """The mean is below 1/8 of the largest float16, and the sum of 700,000 such numbers exceeds
    twice that."""
    mean = abs(float(trial.expected.value("mean").exact))
    return 2 * LARGEST / MEAN_OF_MANY_ROOM < mean < LARGEST / MEAN_OF_MANY_MARGIN


@clause(
    _averages_halves,
    enough=2,
    requires=[
        _in_float16,
        has_axes,
        takes_reduction("mean"),
        separable,
        _small_beside_many,
        some_counted,
        _mean_known,
        _sum_of_many_overflows,
    ],
)
def mean_of_many(trial: Trial) -> Judgement:
    """In float16, `mean` over at least 70,000 elements is right although their sum exceeds the
    largest float16."""
    case, loss, expected = trial.case, trial.loss, trial.expected
    axis = case.shape.result[0]
    size = case.axis_sizes(loss)[axis]
    known = expected.value("mean")
    once = abs(float((expected.losses * expected.shares).sum()))
    copies = int(max(MEAN_OF_MANY_ELEMENTS / expected.losses.size, 2 * LARGEST / once)) + 1
    if copies * sum(array.size for array in case.tensors.values()) > MEAN_OF_MANY_ROOM:
        raise NotJudged(Excuse.TOO_EXPENSIVE)
    many = part_along(loss, case, axis, np.arange(size * copies) % size)
    if not trial.allows(many):
        raise NotJudged(Excuse.NOT_ABOUT)
    require_room(trial, axis, size * copies)
    many = many.with_(reduction="mean", requires_grad=(), layouts={})
    got = required(trial.number(perform(trial.under_test, many, trial.device)))
    if got.shape != ():
        raise NotJudged(Excuse.CALL_FAILS)
    dtype = precision(case.dtype)
    scale = np.abs(expected.losses * expected.shares).sum() / abs(expected.divided("mean")[2])
    added = roundings(expected.losses.size * copies, dtype, many.parts(loss)) + 1
    budget = known.budget + SLACK * dtype.unit * added * scale
    want = Bounded.around(known.exact, budget, case.dtype)
    what = f"the mean over {expected.losses.size * copies} elements, {copies} times the call's"
    trial.agree(got, want, what, of=None, case=case.with_(reduction="mean"))
    # A wrong result shows if it exceeds the budget: an overflow gives infinity, NaN or 0, each of
    # which is off by more than half of the mean.
    return bool(budget < abs(float(known.exact)) / 2)
