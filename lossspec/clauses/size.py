"""Clauses on calls whose sizes are those of the blocks of a kernel, or beyond them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from lossspec.cases.axes import axes_of, part_along
from lossspec.cases.case import Case
from lossspec.cases.draw import with_impossible
from lossspec.cases.workloads import Size, axes, batch_axis, has_classes, workload
from lossspec.clauses import Judgement, clause, independent, of_elements
from lossspec.clauses.precondition import (
    conforms,
    first_axis,
    has_axes,
    has_its_dtype,
    narrower_than_float64,
    precondition,
    separable,
    several_along_first_axis,
    small,
    some_loss_known,
    takes_reduction,
    wants_gradients,
    works,
)
from lossspec.clauses.room import require_memory, require_room
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
from lossspec.execution.memory import made
from lossspec.execution.outcome import Outcome, perform
from lossspec.execution.tensors import first_numbers, to_extended
from lossspec.oracle.bounds import Bounded, roundings
from lossspec.oracle.expected import Expected, GradientTerms, Whole
from lossspec.oracle.solver import SolvedCase, numbers_made
from lossspec.spec.loss import AnySize, Loss
from lossspec.spec.roles import ClassIndex, Real, Surface
from lossspec.thresholds import (
    BLOCKS,
    LARGE_BATCH_ROOM,
    MANY_ROWS_SECONDS,
    SLACK,
    SUM_OF_MANY_ELEMENTS,
    WIDEST_OF_16_BITS,
)

#: The dtypes whose numbers torch adds in float32. A serial sum in bfloat16 stops at 256 terms.
OF_16_BITS = ("float16", "bfloat16")
#: Each size of a block, and one element less and more.
BESIDE_BLOCKS = tuple(block + more for block in BLOCKS for more in (-1, 0, 1))


def _has_rows(loss: Loss, surface: Surface) -> bool:
    return independent(loss, surface) and of_elements(loss, surface)


@precondition()
def _unreduced_results(trial: Trial) -> bool:
    """The loss has the reduction `none`."""
    return "none" in trial.loss.reductions


def _rows(trial: Trial, count: int) -> tuple[str, np.ndarray, Case]:
    """Return the first axis, the rows that a longer one repeats, and the call with them."""
    axis = _axis_of(trial)
    rows = np.arange(count) % trial.case.axis_sizes(trial.loss)[axis]
    case = part_along(trial.loss, trial.case, axis, rows).with_(layouts={})
    return axis, rows, _checked(trial, case)


def _checked(trial: Trial, case: Case) -> Case:
    """Return a call with many rows; raise NotJudged if it is too large or not allowed."""
    room = sum(array.size for array in case.tensors.values())
    if room > LARGE_BATCH_ROOM:
        raise NotJudged(Excuse.TOO_EXPENSIVE)
    if not trial.allows(case):
        raise NotJudged(Excuse.NOT_ABOUT)
    return case


def _axis_of(trial: Trial) -> str:
    """Return the first axis of a trial that has one."""
    axis = first_axis(trial)
    assert axis is not None
    return axis


#: The implementations that take too long for calls with many rows, by the identity of each.
_SLOW: WeakValueDictionary[int, Any] = WeakValueDictionary()


def _performed(trial: Trial, case: Case, what: str) -> Outcome:
    """Run a call.

    Raises:
        Deviation: The call raises, or writes to one of its tensors.
        Unsupported: An earlier call with many rows took too long.
    """
    if id(trial.under_test.target) in _SLOW:
        raise Unsupported("a call with thousands of rows takes too long")
    start = time.process_time()
    outcome = perform(trial.under_test, case, trial.device)
    if time.process_time() - start > MANY_ROWS_SECONDS:
        with suppress(TypeError):  # some objects cannot be referred to weakly
            _SLOW[id(trial.under_test.target)] = trial.under_test.target
    if outcome.error is not None:
        raise failed(f"a call with {what}", outcome.error, "a result")
    for name in outcome.touched():
        raise Deviation(
            f"{name} was written to, in a call with {what}",
            first_numbers(outcome.inputs[name], 8),
            first_numbers(outcome.before[name], 8),
            check=None,
        )
    return outcome


@precondition()
def _first_contract(trial: Trial) -> bool:
    """The call has the first shape contract of its form, for which kernels are written first."""
    return trial.case.contract == trial.form.contracts[0].text


@clause(
    _has_rows,
    enough=6,
    requires=[
        _unreduced_results,
        _first_contract,
        wants_gradients,
        takes_reduction("none"),
        several_along_first_axis,
        separable,
        small,
        has_its_dtype,
        works,
        conforms,
        some_loss_known,
    ],
)
def block_of_rows(trial: Trial) -> Judgement:
    """With 31 to 4097 rows (powers of two and their neighbours), each row has the same loss and
    gradient as in a small batch, and no input changes."""
    require_room(trial, _axis_of(trial), BESIDE_BLOCKS[-1])
    judged = [_of_rows(trial, count) for count in BESIDE_BLOCKS]
    return all(judged)


def _of_rows(trial: Trial, count: int) -> bool:
    """Compare the losses and the gradients of a number of rows, which repeat those of the case."""
    axis, rows, many = _rows(trial, count)
    what, case = f"{count} rows", trial.case
    outcome = _performed(trial, many.with_(reduction="none"), what)
    got, place = required(trial.number(outcome)), case.shape.result.index(axis)
    value = trial.expected.value("none").taken(rows, place)
    case = case.with_(reduction="none")
    informative = trial.agree(got, value, f"the loss with {what}", of=None, case=case)
    _agree_gradients(trial, outcome, axis, rows, "none", what)
    return informative


def _agree_gradients(
    trial: Trial,
    outcome: Outcome,
    axis: str,
    rows: np.ndarray,
    reduction: str,
    what: str,
    expected: Expected | None = None,
) -> None:
    """Compare the gradients of tensors whose rows repeat those of the case.

    Args:
        trial: The trial.
        outcome: The call with many rows.
        axis: The axis of the rows.
        rows: For each row of the call, its row in the case.
        reduction: The reduction of the call.
        what: The call, for the report.
        expected: The right answer of the case with the divisor of the whole call; None for its own,
            which is right for `none` and `sum`.
    """
    case, expected = trial.case, expected or trial.expected
    for name in case.requires_grad:
        names = axes_of(trial.loss, trial.form, case.shape, name, case.tensors[name].ndim)
        right = expected.gradient(name, reduction, case.upstream(reduction))
        gradient = outcome.gradients[name]
        if right is None or gradient is None or axis not in names:
            continue
        at = names.index(axis)
        if case.tensors[name].shape[at] != case.axis_sizes(trial.loss)[axis]:
            continue
        want = trial.expected.counted_only(name, right).taken(rows, at)
        what_of = f"the gradient of {name} with {what}"
        shown = case.with_(reduction=reduction)
        trial.agree(to_extended(gradient), want, what_of, of=None, case=shown, gradient_of=name)


#: The number of rows in clause `uneven_rows`: all blocks leave a last one that is shorter.
UNEVEN_ROWS = BLOCKS[-1] + 1
#: The sizes of the blocks whose means must not be averaged.
AVERAGED = (BLOCKS[3], BLOCKS[-1])


def _reduces_rows(loss: Loss, surface: Surface) -> bool:
    return _has_rows(loss, surface) and "mean" in loss.reductions


def _sorted_rows(trial: Trial) -> np.ndarray:
    """Return the rows of the case many times each: ignored ones first, then the smallest losses."""
    axis, expected = first_axis(trial), trial.expected
    assert axis is not None
    place = trial.case.shape.result.index(axis)
    others = tuple(at for at in range(expected.losses.ndim) if at != place)
    order = np.lexsort((expected.losses.sum(others), expected.counts.sum(others)))
    return np.asarray(order[np.arange(UNEVEN_ROWS) * len(order) // UNEVEN_ROWS])


def _of_many(trial: Trial, many: Case, rows: np.ndarray, place: int) -> Expected:
    """Return the right values of a call whose rows repeat those of a case; it has no gradients."""
    expected, parts = trial.expected, many.parts(trial.loss)

    def taken(numbers: np.ndarray) -> np.ndarray:
        return numbers.take(rows, place) if numbers.ndim else numbers

    counts, counted = taken(expected.counts), taken(expected.counted)
    whole = Whole(many, counts, counted, expected.precision, parts, expected.whole.mean)
    return replace(
        expected,
        case=many,
        losses=taken(expected.losses),
        budget=taken(expected.budget),
        counts=counts,
        shares=taken(expected.shares),
        counted=counted,
        why=taken(expected.why),
        stated=taken(expected.stated),
        whole=whole,
        _known={},
    )


def _summed_serially(expected: Expected, reduction: str) -> Bounded:
    """Return a reduced value with a budget for serial sums: of the losses, and of the divisor."""
    value, divisor = expected.value(reduction), expected.divisor(reduction)[0]
    with np.errstate(all="ignore"):
        shares = expected.shares if reduction == "mean" else 1
        size = np.abs(expected.losses * shares).sum() / abs(divisor)
        budget = value.budget + 2 * expected.precision.unit * expected.losses.size * size
    return replace(value, budget=np.asarray(np.where(np.isnan(budget), np.inf, budget)))


def _average_of_blocks(expected: Expected, place: int, size: int, by_rows: bool) -> np.ndarray:
    """Return the wrong mean of an implementation that averages the means of blocks of rows.

    Args:
        expected: The right values of the call.
        place: The axis of the rows.
        size: The number of rows in a block; the last one is shorter.
        by_rows: Whether a block counts as often as it has rows.
    """
    starts = np.arange(0, expected.losses.shape[place], size)
    lengths = np.diff([*starts, expected.losses.shape[place]])
    others = tuple(at for at in range(expected.losses.ndim) if at != place)
    sums, counts = (
        np.add.reduceat(part.sum(others), starts)
        for part in (expected.losses * expected.shares, expected.counts)
    )
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts != 0)
    return np.asarray(np.average(means, weights=lengths if by_rows else None))


@precondition(Excuse.TOO_UNCERTAIN)
def _shows_means_of_blocks(trial: Trial) -> bool:
    """Over 4097 sorted rows, the average of the means of blocks differs from the mean by more than
    the budget. If elements can be ignored, so does the average that is weighted by rows."""
    axis = first_axis(trial)
    if axis is None or not trial.expected.counts.any():
        return False
    place, rows = trial.case.shape.result.index(axis), _sorted_rows(trial)
    expected = _of_many(trial, part_along(trial.loss, trial.case, axis, rows), rows, place)
    ways = [(size, False) for size in AVERAGED]
    if trial.form.ignores:
        ways.append((AVERAGED[0], True))
    with np.errstate(all="ignore"):
        want = _summed_serially(expected, "mean")
        wrong = [_average_of_blocks(expected, place, size, by_rows) for size, by_rows in ways]
        shows = [bool(np.isfinite(got) and (want.error(got) > 1).all()) for got in wrong]
    return want.informative and all(shows)


@clause(
    _reduces_rows,
    enough=10,
    requires=[
        takes_reduction("mean"),
        several_along_first_axis,
        separable,
        small,
        has_its_dtype,
        works,
        conforms,
    ],
)
def uneven_rows(trial: Trial) -> Judgement:
    """With 4097 rows, the ignored ones first, `sum`, `mean` and `batchmean` and their gradients are
    right: the divisor is that of the whole batch."""
    plain = Trial(trial.under_test, _plain_rows(trial.loss), trial.device, bar=trial.bar)
    return any_judged(trial, _uneven, [trial, plain])


@lru_cache(maxsize=4)
def _plain_rows(loss: Loss) -> SolvedCase:
    """Return a default call of a few rows, half of which are ignored if the form allows it."""
    sizes = axes(loss, Size("", 24, 3, None, "")) | {batch_axis(loss): 12}
    dtype = loss.default_dtype
    case = workload(loss, sizes, dtype, UNEVEN_ROWS)
    tensors = dict(case.tensors)
    for name, role in loss.form(case.form).tensors.items():
        if isinstance(role, ClassIndex) and role.ignored_by is not None and tensors[name].ndim:
            marked = np.array(tensors[name])
            marked[: len(marked) // 2] = case.parameters[role.ignored_by]
            tensors[name] = marked
    return SolvedCase(loss, case.with_(tensors=tensors))


def _uneven(trial: Trial) -> bool:
    """Judge each reduction over many rows; return whether a wrong result would have shown."""
    if not trial.can("mean") or not trial.worked or not trial.conforms:
        raise NotJudged(Excuse.CALL_FAILS)
    if not _shows_means_of_blocks.holds(trial):
        raise NotJudged(Excuse.TOO_UNCERTAIN)
    axis, order = _axis_of(trial), _sorted_rows(trial)
    require_room(trial, axis, len(order))
    many = _checked(trial, part_along(trial.loss, trial.case, axis, order).with_(layouts={}))
    place = trial.case.shape.result.index(axis)
    right = _of_many(trial, many, order, place)
    expected = replace(trial.expected, whole=right.whole, _known={})
    judged = []
    for reduction in trial.loss.reductions:
        if reduction == "none" or not trial.can(reduction):
            continue
        what = f"{reduction!r} over {UNEVEN_ROWS} rows"
        outcome = _performed(trial, many.with_(reduction=reduction), what)
        got, want = required(trial.number(outcome)), _summed_serially(right, reduction)
        shown = trial.case.with_(reduction=reduction)
        judged.append(trial.agree(got, want, what, of=None, case=shown))
        _agree_gradients(trial, outcome, axis, order, reduction, what, expected)
    return any(judged)


def _free_classes(loss: Loss, surface: Surface) -> bool:
    """Return whether a default call has any number of classes."""
    free = isinstance(loss.forms[0].sizes.get(loss.classes, AnySize(())), AnySize)
    return has_classes(loss) and free


def _compares_pairs(loss: Loss) -> bool:
    """Return whether a default call lists classes, and compares each with all others."""
    return any(map(loss.forms[0].lists_classes, loss.forms[0].contracts))


def _many_free_classes(loss: Loss, surface: Surface) -> bool:
    return _free_classes(loss, surface) and not _compares_pairs(loss)


def _of_classes(loss: Loss, classes: int) -> SolvedCase:
    """Return a default call of one row with a number of classes, and its right answer."""
    dtype = loss.default_dtype
    return _of_axis(loss, loss.classes, classes, dtype)


@lru_cache(maxsize=4)
def _of_axis(loss: Loss, axis: str, count: int, dtype: str) -> SolvedCase:
    """Return a default call of one row with this size of an axis, and its right answer."""
    sizes = axes(loss, Size("", 1, 2, count if axis == loss.classes else None, ""))
    sizes = {name: min(size, 2) for name, size in sizes.items()}
    sizes |= {batch_axis(loss): 1, axis: count}
    # A spec may give some classes the score -inf, which other clauses judge.
    seeds = (count, -count, 0, 1)
    finite = (case for s in seeds if _finite(case := workload(loss, sizes, dtype, s)))
    case = next(finite, None) or workload(loss, sizes, dtype, count)
    reduction = "none" if "none" in loss.reductions else case.reduction
    return SolvedCase(loss, case.with_(reduction=reduction))


def _finite(case: Case) -> bool:
    """Return whether every number of the tensors is finite."""
    return all(bool(np.isfinite(array.astype(np.float64)).all()) for array in case.tensors.values())


def _judged_classes(trial: Trial, counts: Sequence[int]) -> bool:
    """Judge default calls of one row with these numbers of classes."""
    judged = [informative for count in counts for informative in _classes(trial, count)]
    return any(judged)


def _classes(trial: Trial, count: int) -> Iterator[bool]:
    """Judge value and gradients with a number of classes; yield whether each was judged closely."""
    solved = _of_classes(trial.loss, count)
    if solved.case.axis_sizes(trial.loss).get(trial.loss.classes) != count:
        raise NotJudged(Excuse.NOT_ABOUT)
    yield from _of_case(trial, solved, count, f"{count} classes")


@lru_cache(maxsize=4)
def _half_impossible(loss: Loss, count: int) -> SolvedCase | None:
    """Return a call of the last class, with -inf for the first half of the classes, if allowed."""
    case = _of_classes(loss, count).case
    last = {
        name: np.full_like(case.tensors[name], count - 1)
        for name, role in loss.form(case.form).tensors.items()
        if isinstance(role, ClassIndex)
    }
    case = case.with_(tensors={**case.tensors, **last})
    masked = with_impossible(loss, case, lambda shape: np.arange(shape[-1]) < count // 2)
    return None if masked is None else SolvedCase(loss, masked)


def _of_case(trial: Trial, solved: SolvedCase, count: int, what: str) -> Iterator[bool]:
    """Judge value and gradients of a case; yield whether each was judged closely.

    Args:
        trial: The trial of another call.
        solved: The case.
        count: The number of its classes, or of the numbers in a row.
        what: This number in words, for the report.
    """
    beside = Trial(trial.under_test, solved, trial.device)
    if not beside.can(solved.case.reduction):
        raise NotJudged(Excuse.NOT_SUPPORTED)
    outcome = _performed(trial, solved.case, what)
    want = _serial(beside.expected.value(solved.case.reduction), count)
    got = required(trial.number(outcome))
    yield trial.agree(got, want, f"the loss with {what}", of=None, case=solved.case)
    for name, right in beside.expected.gradients().items():
        gradient = outcome.gradients.get(name)
        if gradient is not None:
            what_of = f"the gradient of {name} with {what}"
            got = to_extended(gradient)
            want = _serial(right, count)
            yield trial.agree(got, want, what_of, of=None, case=solved.case, gradient_of=name)


def _serial(bounded: Bounded, count: int) -> Bounded:
    """Widen budgets by the roundings of a serial sum over this many terms of one sign.

    In 16 bits the budgets stay: a sum in float32 is expected there.
    """
    if bounded.dtype in OF_16_BITS:
        return bounded
    unit = precision(bounded.dtype).unit
    return replace(bounded, budget=bounded.budget + unit * count * np.abs(bounded.exact))


@clause(_free_classes, enough=1, once=True, requires=[works, has_its_dtype])
def block_of_classes(trial: Trial) -> Judgement:
    """With 1024 or 4096 classes, or one more than 4096, value and gradients of a default call are
    right, also if the first half of the classes is impossible. If a row lists several classes, the
    numbers are 65 and 129."""
    if _compares_pairs(trial.loss):
        return _judged_classes(trial, (65, 129))
    judged = _judged_classes(trial, (1024, BLOCKS[-1], BLOCKS[-1] + 1))
    half = _half_impossible(trial.loss, BLOCKS[-1] + 1)
    if half is not None:
        what = f"{BLOCKS[-1] + 1} classes, the first half with the score -inf"
        judged |= any([*_of_case(trial, half, BLOCKS[-1] + 1, what)])
    return judged


def _row_axis(loss: Loss) -> str | None:
    """Return the axis of any size that a default call adds up in each row: classes or features."""
    form, (first, *_) = loss.forms[0], loss.forms[0].contracts
    if _compares_pairs(loss):
        return None
    if _free_classes(loss, "function"):
        return loss.classes
    free = isinstance(form.sizes.get(first.core[0] if first.core else "", AnySize(())), AnySize)
    return first.core[0] if len(first.core) == 1 and free else None


def _row_dtypes(loss: Loss) -> list[str]:
    """Return the dtypes of long rows, without float16 if a row may hold any real numbers.

    The product of two sums of 1024 squares, as a cosine may need it, overflows in float16.
    """
    squared = any(type(role) is Real for role in loss.forms[0].tensors.values())
    wanted = ("float32", "bfloat16") if squared else ("float32", "float16", "bfloat16")
    return [name for name in wanted if name in loss.dtypes]


@lru_cache(maxsize=64)
def _has_long_rows(loss: Loss, surface: Surface) -> bool:
    """Return whether rows may be long, and are not compared number by number with themselves."""
    axis, dtypes = _row_axis(loss), _row_dtypes(loss)
    if axis is None or not dtypes or not _has_rows(loss, surface):
        return False
    try:
        cases = [_of_axis(loss, axis, count, dtypes[0]).case for count in BLOCKS[1:3]]
        if [case.axis_sizes(loss).get(axis) for case in cases] != [*BLOCKS[1:3]]:
            return False  # the size follows from something else
        few, more = (numbers_made(loss, case) for case in cases)
    except Exception:
        return False  # an error of the spec, which the first case shows
    return more < 3 * few


@clause(_has_long_rows, enough=1, once=True, requires=[works])
def long_rows(trial: Trial) -> Judgement:
    """With 1024 or 4097 numbers in a row, value and gradients of a default call are right. In
    float16 and bfloat16 they are as accurate as with sums in float32."""
    axis, among = _row_axis(trial.loss), trial.solved.dtypes
    assert axis is not None

    def judged(dtype: str) -> bool:
        short = _of_axis(trial.loss, axis, 2, dtype)
        if not Trial(trial.under_test, short, trial.device).worked:
            raise NotJudged(Excuse.NOT_SUPPORTED)
        found: list[bool] = []
        for count in (BLOCKS[5], BLOCKS[-1] + 1):
            what = f"{count} numbers in a row, in {dtype}"
            found += _of_case(trial, _of_axis(trial.loss, axis, count, dtype), count, what)
        return any(found)

    dtypes = [name for name in _row_dtypes(trial.loss) if among is None or name in among]
    return any_judged(trial, judged, dtypes)


@clause(_many_free_classes, enough=1, once=True, slow=True, requires=[works, has_its_dtype])
def many_classes(trial: Trial) -> Judgement:
    """With 31 to 4097 classes (powers of two and their neighbours) and with more than 65,536, value
    and gradients of a default call are right."""
    judged = _judged_classes(trial, BESIDE_BLOCKS)
    most = WIDEST_OF_16_BITS + 64
    require_memory(lambda count: _made_by_classes(trial, count), BLOCKS[-2], most, "classes")
    return _judged_classes(trial, (most,)) or judged


def _made_by_classes(trial: Trial, count: int) -> int | None:
    """Return the bytes of all tensors that a default call with a number of classes makes."""
    case = _of_classes(trial.loss, count).case
    return made(lambda: perform(trial.under_test, case, trial.device))


@precondition(Excuse.TOO_EXPENSIVE)
def _few_beside_many(trial: Trial) -> bool:
    """The unreduced loss is not empty, and 131,072 elements are at least 64 copies of it."""
    return 0 < trial.expected.losses.size <= SUM_OF_MANY_ELEMENTS / 64


@precondition()
def _all_terms(trial: Trial) -> bool:
    """Every element is counted, and the mean divides by the number of elements."""
    expected = trial.expected
    return bool(expected.counted.all() and (expected.counts == 1).all())


def _elementwise(loss: Loss, surface: Surface) -> bool:
    """Return whether the loss of each element depends on one number of each tensor."""
    plain = not any(contract.core for form in loss.forms for contract in form.contracts)
    return plain and _has_rows(loss, surface) and {"sum", "none"} <= set(loss.reductions)


@clause(
    _elementwise,
    enough=15,
    requires=[
        narrower_than_float64,
        has_axes,
        several_along_first_axis,
        separable,
        _few_beside_many,
        _all_terms,
        has_its_dtype,
        works,
        conforms,
    ],
)
def sum_of_many(trial: Trial) -> Judgement:
    """Over more than 131,072 elements, `sum` and `mean` are as accurate as a pairwise sum, and so
    is the gradient of a tensor that broadcasts. In float32, blocks of 8,192 may be added serially.
    """
    size = trial.expected.losses.size
    copies = SUM_OF_MANY_ELEMENTS // size + 1
    axis = first_axis(trial)
    assert axis is not None
    require_room(trial, axis, copies * trial.case.axis_sizes(trial.loss)[axis])
    axis, rows, many = _rows(trial, copies * trial.case.axis_sizes(trial.loss)[axis])
    judged = [_sum_of_copies(trial, many, copies, name, axis, rows) for name in ("sum", "mean")]
    return any(judged)


def _sum_of_copies(
    trial: Trial, many: Case, copies: int, reduction: str, axis: str, rows: np.ndarray
) -> bool:
    """Compare a reduction of many copies of the rows, and the gradients.

    Args:
        trial: The trial.
        many: The call with the copies.
        copies: How many copies of the call there are.
        reduction: The reduction, `sum` or `mean`.
        axis: The axis of the rows.
        rows: For each row of the call, its row in the case.

    Returns:
        Whether a wrong result would have shown.
    """
    expected, info = trial.expected, precision(trial.case.dtype)
    if reduction not in trial.loss.reductions or not trial.can(reduction):
        return False
    count = expected.losses.size * copies
    scale = copies if reduction == "sum" else copies / count
    size = float(np.abs(expected.losses).sum()) * copies
    if not size < (info.largest if reduction == "sum" else info.largest_sum) / SLACK:
        return False  # the sum overflows
    what = f"{reduction!r} over {count} elements"
    outcome = _performed(trial, many.with_(reduction=reduction), what)
    got = required(trial.number(outcome))
    added = roundings(count, info) + 2
    budget = expected.budget.sum() * scale + info.unit * added * size * scale / copies
    want = Bounded.around(expected.losses.sum() * scale, SLACK * budget, trial.case.dtype)
    shown = trial.case.with_(reduction=reduction)
    trial.agree(got, want, what, of=None, case=shown)
    if reduction == "sum":
        _agree_gradients(trial, outcome, axis, rows, reduction, what)
    for name in many.requires_grad:
        gradient = outcome.gradients[name]
        if gradient is None or many.tensors[name].shape != trial.case.tensors[name].shape:
            continue
        terms = expected.terms(name, "sum", trial.case.upstream("sum"))
        assert terms is not None  # a sum has a gradient
        exact, low, high, budgets, size_of = (
            scale * part for part in (terms.exact, terms.low, terms.high, terms.budget, terms.size)
        )
        shared = GradientTerms(exact, low, high, budgets, size_of, terms.terms * copies)
        right = expected.summed(name, shared)
        # In float16 each term of a mean may be so small that it rounds to 0.
        lost = terms.terms * copies * info.negligible
        right = replace(right, budget=right.budget + lost)
        what_of = f"the gradient of {name} for {what}"
        trial.agree(to_extended(gradient), right, what_of, of=None, case=shown, gradient_of=name)
    # A serial sum in bfloat16 keeps fewer than one term in a hundred.
    return bool(SLACK * budget < 0.99 * abs(want.exact))
