"""Clauses that compare two calls of an implementation that must give the same result."""

from __future__ import annotations

import time
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np

from lossspec.cases.axes import axes_of, part_along
from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause, independent
from lossspec.clauses.precondition import (
    all_counted,
    conforms,
    first_axis,
    has_its_dtype,
    narrower_than_float64,
    precondition,
    separable,
    several_along_first_axis,
    small,
    some_loss_known,
    takes_reduction,
    works,
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
from lossspec.dtypes import as_extended, precision
from lossspec.excuse import Excuse
from lossspec.execution.messages import out_of_memory
from lossspec.execution.outcome import Outcome, differentiable, perform
from lossspec.execution.tensors import to_extended
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Form, Loss, Symmetry
from lossspec.spec.roles import ClassIndex, Distribution, Factor, Surface, Weight
from lossspec.spec.shapes import Shape
from lossspec.thresholds import (
    LARGE_BATCH_BYTES,
    LARGE_BATCH_NUMBERS,
    LARGE_BATCH_PARTS,
    LARGE_BATCH_ROOM,
    LARGE_BATCH_ROWS,
    LARGE_BATCH_SECONDS,
    LAST_PLACES,
    OVERFLOW_MARGIN,
    SLACK,
    SMALLEST_PLACES,
)

ENOUGH = 30


def _agree(trial: Trial, other: Case, what: str, reduction: str, order: Any = ...) -> bool:
    """Compare the result of a related call with that of the trial, within the budget of each.

    Args:
        trial: The trial.
        other: The related case.
        what: The quantity of the related call, for the report.
        reduction: The reduction of both calls.
        order: The index that selects, from the trial's unreduced result, the elements of the
            related result, in their order.

    Returns:
        Whether a wrong result would have shown.

    Raises:
        Deviation: The results disagree.
        NotJudged: One of the calls cannot be made or gives no number.
    """
    if not trial.can(reduction):
        raise NotJudged(Excuse.NOT_SUPPORTED)
    if not trial.allows(other):
        raise NotJudged(Excuse.NOT_ABOUT)
    mine = required(trial.under(reduction))
    beside = Trial(
        trial.under_test, SolvedCase(trial.loss, other.with_(reduction=reduction)), trial.device
    )
    theirs = required(beside.number(beside.outcome))
    here = trial.expected.value(reduction)
    if mine.shape != here.exact.shape:
        raise NotJudged(Excuse.CALL_FAILS)
    mine, allowed = mine[order], here.budget[order]
    shown, compared = other.with_(reduction=reduction), what
    if order is ... and _wrong(mine, here) and not _wrong(theirs, beside.expected.value(reduction)):
        # If only the trial's own call is wrong, report that one.
        shown, compared = trial.case.with_(reduction=reduction), f"the result compared with {what}"
        mine, theirs = theirs, mine
    # Both calls have one right result. Their budgets differ only if the calls add up different
    # numbers of parts.
    their_budget = allowed
    if reduction != "none" and other.parts(trial.loss) != trial.case.parts(trial.loss):
        their_budget = beside.expected.value(reduction).budget
    budget = np.where(np.isfinite(mine), allowed + their_budget, np.inf)
    want = Bounded.around(mine, budget, trial.case.dtype)
    return trial.agree(theirs, want, compared, case=shown)


def _wrong(got: np.ndarray, want: Bounded) -> bool:
    return got.shape != want.exact.shape or bool((want.error(got) > 1).any())


def _agree_reduced(trial: Trial, other: Case, what: str) -> bool:
    """Compare the `sum` and the `mean` of a related call with those of the trial, like `_agree`."""
    return any_judged(
        trial, lambda name: _agree(trial, other, f"{name!r} {what}", name), ("sum", "mean")
    )


def _rows(trial: Trial) -> int:
    """Return the length of the batch axis; 0 without one."""
    case, loss = trial.case, trial.loss
    return case.axis_sizes(loss).get(loss.batch, 0) if loss.batched(case.shape) else 0


def _batched(loss: Loss, surface: Surface) -> bool:
    contracts = (contract for form in loss.forms for contract in form.contracts)
    return independent(loss, surface) and any(map(loss.batched, contracts))


@precondition()
def _several_rows(trial: Trial) -> bool:
    """The batch has at least two rows."""
    return _rows(trial) > 1


@clause(_batched, enough=ENOUGH, requires=[_several_rows, separable, has_its_dtype])
def batch_permutation(trial: Trial) -> Judgement:
    """Reversing the order of the batch only reverses the order of the unreduced result."""
    rows = _rows(trial)
    order = np.arange(rows)[::-1]
    other = part_along(trial.loss, trial.case, trial.loss.batch, order)
    axis = trial.case.shape.result.index(trial.loss.batch)
    where = (slice(None),) * axis + (slice(None, None, -1),)
    return _agree(trial, other, "'none' with the batch reversed", "none", where)


def _cut(trial: Trial) -> int:
    """Return the first row of the last part of the batch; 0 if the contract allows no part."""
    rows, given, batch = _rows(trial), trial.case.parameters, trial.loss.batch
    sizes = trial.case.axis_sizes(trial.loss)
    parts = (rows // 3 + 1, *range(rows - 1, 0, -1))
    allowed = (n for n in parts if trial.loss.allows(trial.form, sizes | {batch: n}, given))
    return rows - next(allowed, rows)


@precondition()
def _a_part_is_allowed(trial: Trial) -> bool:
    """The contract allows a part of the batch as a batch."""
    return _cut(trial) > 0


@clause(
    _batched,
    enough=ENOUGH,
    requires=[_several_rows, separable, _a_part_is_allowed, has_its_dtype],
)
def batch_split(trial: Trial) -> Judgement:
    """A part of the batch gives the same part of the unreduced result as the whole batch."""
    rows, first = _rows(trial), _cut(trial)
    other = part_along(trial.loss, trial.case, trial.loss.batch, np.arange(first, rows))
    axis = trial.case.shape.result.index(trial.loss.batch)
    where = (slice(None),) * axis + (slice(first, None),)
    return _agree(trial, other, "'none' with the last rows alone", "none", where)


def _ignorable(trial: Trial) -> tuple[str, int] | None:
    """Return the tensor of a call whose numbers mark ignored rows, and the number that does."""
    loss, case = trial.loss, trial.case
    for (name, role), axes in zip(trial.form.tensors.items(), case.shape.inputs, strict=True):
        if isinstance(role, ClassIndex) and role.ignored_by is not None and loss.batch in axes:
            mark, limits = case.parameters[role.ignored_by], np.iinfo(case.tensors[name].dtype)
            return (name, mark) if limits.min <= mark <= limits.max else None
    return None


@precondition()
def _rows_that_may_be_ignored(trial: Trial) -> bool:
    """The batch has at least two rows, each of which may be ignored; some are not."""
    some = bool(trial.expected.counted.any())
    return _rows(trial) > 1 and some and _ignorable(trial) is not None


@clause(
    lambda loss, surface: loss.ignores,
    enough=ENOUGH,
    requires=[_rows_that_may_be_ignored, has_its_dtype, small],
)
def ignored_is_deleted(trial: Trial) -> Judgement:
    """Removing the ignored rows from a batch changes neither `sum` nor `mean`."""
    case, batch, found = trial.case, trial.loss.batch, _ignorable(trial)
    assert found is not None
    name, mark = found
    counted = np.moveaxis(trial.expected.counted, case.shape.result.index(batch), 0)
    kept = np.asarray(counted.reshape(len(counted), -1).any(1), bool)
    marked = trial
    if kept.all():  # ignore one of the rows, in all its positions
        kept[len(kept) // 2] = False
        axes = case.shape.inputs[list(trial.form.tensors).index(name)]
        target = np.moveaxis(case.tensors[name].copy(), axes.index(batch), 0)
        target[~kept] = mark
        target = np.moveaxis(target, 0, axes.index(batch))
        layouts = {n: layout for n, layout in case.layouts.items() if n != name}
        other = case.with_(tensors={**case.tensors, name: target}, layouts=layouts)
        marked = Trial(trial.under_test, SolvedCase(trial.loss, other), trial.device)
    fewer = part_along(trial.loss, marked.case, batch, np.flatnonzero(kept))
    return _agree_reduced(marked, fewer, "without the ignored rows")


def _has_classes(loss: Loss, surface: Surface) -> bool:
    return loss.exchangeable and any(
        isinstance(role, ClassIndex | Distribution)
        and loss.classes in contract.core
        and not form.lists_classes(contract)
        for form in loss.forms
        for role in form.tensors.values()
        for contract in form.contracts
    )


@precondition()
def _several_classes(trial: Trial) -> bool:
    """The call has an axis of at least two classes."""
    axis = trial.loss.classes
    classes = trial.case.axis_sizes(trial.loss).get(axis, 0)
    return classes > 1 and axis in trial.case.shape.core


@precondition()
def _classes_can_be_renumbered(trial: Trial) -> bool:
    """The contract allows any order of the classes."""
    return trial.permutable


# Renumbering would change which class is ignored.
@precondition(Excuse.IGNORED)
def _no_class_ignored(trial: Trial) -> bool:
    """The ignored index is not the index of a class."""
    classes = trial.case.axis_sizes(trial.loss).get(trial.loss.classes, 0)
    ignored = (
        trial.case.parameters[role.ignored_by]
        for role in trial.form.tensors.values()
        if isinstance(role, ClassIndex) and role.ignored_by
    )
    return not any(0 <= index < classes for index in ignored)


@clause(
    _has_classes,
    enough=ENOUGH,
    requires=[_several_classes, _classes_can_be_renumbered, _no_class_ignored, has_its_dtype],
)
def class_permutation(trial: Trial) -> Judgement:
    """Renumbering the classes in all tensors does not change the unreduced loss."""
    case, form, axis = trial.case, trial.form, trial.loss.classes
    classes = case.axis_sizes(trial.loss)[axis]
    indices = [n for n, role in form.tensors.items() if isinstance(role, ClassIndex)]
    order = np.arange(classes)[::-1]
    other = part_along(trial.loss, case, axis, order)
    tensors = dict(other.tensors)
    for name in indices:
        target = tensors[name]
        inside = (target >= 0) & (target < classes)
        role = form.tensors[name]
        assert isinstance(role, ClassIndex)
        if role.ignored_by:
            inside &= target != case.parameters[role.ignored_by]
        tensors[name] = np.where(inside, classes - 1 - target, target).astype(target.dtype)
    return _agree(trial, other.with_(tensors=tensors), "'none' with the classes reversed", "none")


def _scores(trial: Trial) -> dict[str, np.ndarray]:
    """Return the tensors that scores are computed from, rounded so that scores are exact.

    Scores become multiples of 1/4 between -7 and 7, and factors become -1, 0 or 1.
    """
    found = {}
    for name, role in trial.loss.roles(trial.form).items():
        score = name in trial.loss.shift_invariant or isinstance(role, Factor)
        if name in trial.case.tensors and score:
            x = trial.case.tensors[name]
            step, most = (1, 1) if isinstance(role, Factor) else (0.25, 7)
            exact = np.clip(np.round(x.astype(np.float64) / step) * step, -most, most)
            found[name] = np.asarray(exact).astype(x.dtype)
    return found


@precondition()
def _finite_scores(trial: Trial) -> bool:
    """The scores, or the numbers that they are computed from, are finite."""
    scores = _scores(trial)
    finite = all(np.isfinite(trial.case.tensors[name].astype(np.float64)).all() for name in scores)
    shifted = trial.loss.shift_invariant
    return finite and all(name in scores and scores[name].size > 0 for name in shifted)


# A right loss may compute in float64, which absorbs the offset of narrower dtypes, not its own.
@clause(
    lambda loss, surface: bool(loss.shift_invariant),
    enough=ENOUGH,
    requires=[narrower_than_float64, _finite_scores, works, conforms],
)
def shift_invariance(trial: Trial) -> Judgement:
    """Adding one large number to all scores changes neither the loss nor its gradient."""
    case, scores, shifted = trial.case, _scores(trial), trial.loss.shift_invariant
    # All scores are multiples of 1/4, so that adding the offset is exact in the dtype.
    offset = 2.0 ** (-np.log2(precision(case.dtype).unit) - 4)
    plain = case.with_(tensors={**case.tensors, **scores})
    higher = {
        name: (scores[name].astype(np.float64) + offset).astype(scores[name].dtype)
        for name in shifted
    }
    moved = plain.with_(tensors={**plain.tensors, **higher})
    solved = SolvedCase(trial.loss, plain)
    if not Trial(trial.under_test, solved, trial.device).conforms:
        raise NotJudged(Excuse.CALL_FAILS)  # clause `value` or `gradient` reports it
    beside = Trial(trial.under_test, SolvedCase(trial.loss, moved), trial.device)
    got = required(beside.number(beside.outcome))
    want = solved.expected.value(case.reduction)
    when = f"with {offset:g} added to {' and '.join(shifted)}"
    informative = trial.agree(got, want, f"the value {when}", case=moved)
    gradients = solved.expected.gradients()
    for name in scores:
        slope, gradient = gradients.get(name), beside.outcome.gradients.get(name)
        if slope is not None and gradient is not None:
            informative |= trial.agree(
                to_extended(gradient),
                slope,
                f"the gradient of {name} {when}",
                of=f"gradients[{name!r}]",
                case=moved,
            )
    return informative


@clause(lambda loss, surface: bool(loss.symmetries), enough=ENOUGH)
def symmetry(trial: Trial) -> Judgement:
    """If the definition is symmetric, such as under swapping two inputs, the value and the
    gradients are symmetric too, also at kinks."""

    def judged(change: Symmetry) -> bool:
        case = trial.case
        slopes = tuple(name for name in change.maps if name in trial.differentiable)
        other = case.with_(tensors=_changed(case, change), requires_grad=slopes, layouts={})
        mine = case.with_(requires_grad=slopes, layouts={})
        here = Trial(trial.under_test, SolvedCase(trial.loss, mine), trial.device)
        there = Trial(trial.under_test, SolvedCase(trial.loss, other), trial.device)
        if here.outcome.error is not None or there.outcome.error is not None:
            raise NotJudged(Excuse.CALL_FAILS)
        a, b = required(here.number(here.outcome)), required(there.number(there.outcome))
        value = here.expected.value(case.reduction)
        if not a.shape == b.shape == value.exact.shape:
            raise NotJudged(Excuse.CALL_FAILS)
        informative = _close(trial, b, a, value, change.says, "value", other)
        for name in slopes:
            if change.maps[name][0] in slopes:
                _close_gradients(trial, here, there, change, name)
        return informative

    return any_judged(trial, judged, trial.loss.symmetries)


def _changed(case: Case, change: Symmetry) -> dict[str, np.ndarray]:
    """Return the tensors of the symmetric call; raise NotJudged if they would be rounded."""
    if any(name in case.tensors for name in change.without):
        raise NotJudged(Excuse.NOT_ABOUT)
    tensors = dict(case.tensors)
    for name, (source, factor, offset) in change.maps.items():
        old = case.tensors[source]
        moved = factor * as_extended(old) + offset
        new = np.asarray(moved.astype(old.dtype))
        if not np.array_equal(as_extended(new), np.asarray(moved), equal_nan=True):
            raise NotJudged(Excuse.NOT_ABOUT, "the tensors of the symmetric call would be rounded")
        tensors[name] = new
    return tensors


def _close_gradients(trial: Trial, here: Trial, there: Trial, change: Symmetry, name: str) -> None:
    """Compare a gradient of the symmetric call with the corresponding gradient of the trial."""
    source, factor, _ = change.maps[name]
    one, two = here.outcome.gradients[source], there.outcome.gradients[name]
    reduction = trial.case.reduction
    slope = here.expected.gradient(source, reduction, trial.case.upstream(reduction))
    if one is None or two is None:
        trial.skipped[Excuse.CALL_FAILS] += 1
    elif slope is None:
        trial.skipped[Excuse.UNDEFINED] += 1
    else:
        _close(
            trial,
            to_extended(two),
            to_extended(one) / factor,
            slope,
            f"{change.says}: the gradient of {name}",
            f"gradients[{name!r}]",
            there.case,
        )


def _close(
    trial: Trial,
    got: np.ndarray,
    want: np.ndarray,
    allowed: Bounded,
    what: str,
    of: str,
    case: Case,
) -> bool:
    """Compare the results of two symmetric calls, to a few ulps and the budget of each."""
    dtype = precision(trial.case.dtype)
    with np.errstate(all="ignore"):
        budget = (
            LAST_PLACES * dtype.unit * np.abs(want)
            + SMALLEST_PLACES * dtype.smallest
            + 2 * allowed.budget
        )
        budget = np.where(np.isfinite(want) & np.isfinite(got), budget, np.inf)
    bounded = Bounded.around(want, budget, trial.case.dtype)
    return trial.agree(got, bounded, what, of=of, case=case)


def _weighted_mean(loss: Loss, surface: Surface) -> bool:
    return any(form.divisor is not None for form in loss.forms) and any(
        isinstance(role, Weight) and surface in role.surfaces for role in loss.options.values()
    )


@precondition(Excuse.OVERFLOW)
def _sum_in_range(trial: Trial) -> bool:
    """The sum of the absolute losses is below 1/64 of the largest number of the dtype."""
    size = np.abs(trial.expected.losses).sum()
    return bool(OVERFLOW_MARGIN * size < precision(trial.case.dtype).largest)


def _divides(form: Form, name: str) -> bool:
    """Return whether a tensor is part of the divisor of the mean."""
    return form.divisor is not None and name in signature(form.divisor).parameters


def _dividing_weights(trial: Trial) -> dict[str, np.ndarray]:
    """Return the weights of a call that are part of the divisor of its mean."""
    tensors, options = trial.case.tensors, trial.loss.options
    return {
        name: tensors[name]
        for name, role in options.items()
        if isinstance(role, Weight) and name in tensors and _divides(trial.form, name)
    }


@precondition()
def _has_dividing_weights(trial: Trial) -> bool:
    """The call has a weight that is part of the divisor of the mean."""
    return bool(_dividing_weights(trial))


@clause(
    _weighted_mean,
    enough=ENOUGH,
    requires=[_has_dividing_weights, takes_reduction("mean"), has_its_dtype, _sum_in_range],
)
def weight_scale(trial: Trial) -> Judgement:
    """Doubling all weights does not change a `mean` that is divided by the sum of the weights."""
    case, weights = trial.case, _dividing_weights(trial)
    # In float16 a sum of doubled weights may overflow where that of the case does not.
    factor, changed = (0.5, "halved") if case.dtype == "float16" else (2.0, "doubled")
    with np.errstate(over="ignore"):
        scaled = {
            name: np.asarray(weight * weight.dtype.type(factor)).astype(weight.dtype)
            for name, weight in weights.items()
        }
        exact = all(
            (scaled[n] / scaled[n].dtype.type(factor) == w).all() for n, w in weights.items()
        )
    if not exact:
        raise NotJudged(Excuse.SUBNORMAL)
    other = case.with_(tensors={**case.tensors, **scaled})
    return _agree(trial, other, f"the mean with {changed} weights", "mean")


@clause(
    lambda loss, surface: any(
        role.default == 1 and surface in role.surfaces for role in loss.options.values()
    ),
    enough=ENOUGH,
    requires=[has_its_dtype, _sum_in_range],
)
def neutral_weight(trial: Trial) -> Judgement:
    """Passing ones for an optional weight gives the same result as passing none. If the spec says
    that the weight has a gradient, it is that of the definition."""
    case = trial.case

    def judged(name: str) -> bool:
        ones, role = trial.ones(name), trial.loss.options[name]
        if ones is None:
            raise NotJudged(Excuse.NOT_ABOUT)
        other = case.with_(tensors={**case.tensors, name: ones})
        informative = _agree(trial, other, f"the result with {name} of ones", case.reduction)
        if isinstance(role, Weight) and role.adjustable and case.dtype in ("float32", "float64"):
            informative |= _agree_gradient(trial, other, name)
        return informative

    options = trial.loss.options.items()
    return any_judged(
        trial, judged, [n for n, role in options if role.default == 1 and _can_add(trial, n)]
    )


def _agree_gradient(trial: Trial, case: Case, name: str) -> bool:
    """Judge the gradient by an adjustable weight, for which no drawn call asks.

    The call asks for that by the first tensor too: a result without any graph is not judged.
    """
    first, options = next(iter(trial.form.tensors)), trial.loss.options
    case = case.with_(requires_grad=(first, name))
    weighted = {**options, name: replace(options[name], differentiable=True)}
    expected = SolvedCase(replace(trial.loss, options=weighted), case).expected
    want = expected.gradients().get(name)
    outcome = perform(trial.under_test, case, trial.device)
    fails = outcome.error is not None or not differentiable(outcome.value)
    if fails or want is None or not want.exact.size or not np.isfinite(want.exact).all():
        return False
    if case.reduction == "mean" and _divides(trial.form, name):
        want = _through_divisor(expected, want)
    gradient = outcome.gradients[name]
    if gradient is None:
        shape = f"a gradient of shape {list(want.exact.shape)}"
        what = f"no gradient of {name}"
        raise Deviation(what, "None", shape, check=None, missing=True, gradient_of=name)
    what = f"the gradient of {name} of ones"
    return trial.agree(to_extended(gradient), want, what, of=None, case=case, gradient_of=name)


def _through_divisor(expected: Expected, want: Bounded) -> Bounded:
    """Return the gradient by the weights of a mean that is divided by their sum.

    Args:
        expected: The right answer of the call.
        want: The gradient with a constant divisor.
    """
    mean, divisor = expected.value("mean"), expected.divided("mean")[2]
    scale = np.abs(expected.case.upstream("mean") / divisor)
    less = mean.exact * expected.case.upstream("mean") / divisor
    unit = precision(want.dtype).unit
    budget = want.budget + mean.budget * scale + SLACK * unit * (np.abs(want.exact) + np.abs(less))
    return Bounded.around(want.exact - less, budget, want.dtype)


def _can_add(trial: Trial, name: str) -> bool:
    """Return whether the call lacks an optional tensor that the implementation takes."""
    under_test, role = trial.under_test, trial.loss.options[name]
    takes = under_test.takes(name) and under_test.surface in role.surfaces
    return takes and name not in trial.case.tensors


def _two_targets(loss: Loss, surface: Surface) -> bool:
    return _certain_form(loss) is not None


def _certain_form(loss: Loss) -> tuple[str, str, str] | None:
    """Return the names of an index form, of its distribution form, and of their common target."""
    for form in loss.forms:
        for name, role in form.tensors.items():
            if isinstance(role, ClassIndex) and role.one_hot:
                for other in loss.forms:
                    if isinstance(other.tensors.get(name), Distribution):
                        return form.name, other.name, name
    return None


@precondition()
def _index_with_a_distribution_beside(trial: Trial) -> bool:
    """The target holds class indices, and the loss also takes a distribution as the target."""
    found = _certain_form(trial.loss)
    return found is not None and trial.case.form == found[0]


# The documentation leaves 0 times -inf open, which a class of probability 0 would give.
@precondition(Excuse.UNDEFINED)
def _finite_first_tensor(trial: Trial) -> bool:
    """Every number of the first tensor is finite."""
    first = next(iter(trial.case.tensors.values()))
    return bool(np.isfinite(first.astype(np.float64)).all())


def _contract_of_distribution(trial: Trial) -> Shape | None:
    """Return the contract with a distribution in place of the class indices; None without one."""
    found, case = _certain_form(trial.loss), trial.case
    if found is None:
        return None
    _, other_form, name = found
    form = trial.loss.form(other_form)
    at = list(form.tensors).index(name)
    others = [axes for i, axes in enumerate(case.shape.inputs) if i != at]
    for contract in form.contracts:
        axes = contract.expand(case.spread).inputs
        alike = [one for i, one in enumerate(axes) if i != at] == others
        if alike and trial.loss.classes in axes[at]:
            return contract
    return None


@precondition()
def _distribution_of_this_shape(trial: Trial) -> bool:
    """The contract allows a distribution for tensors of these shapes."""
    return _contract_of_distribution(trial) is not None


@clause(
    _two_targets,
    enough=ENOUGH,
    requires=[
        _index_with_a_distribution_beside,
        all_counted,
        _finite_first_tensor,
        _distribution_of_this_shape,
        has_its_dtype,
    ],
)
def index_is_one_hot(trial: Trial) -> Judgement:
    """A class index gives the same `sum` as the one-hot distribution of that class."""
    found, contract, case = _certain_form(trial.loss), _contract_of_distribution(trial), trial.case
    assert found is not None
    assert contract is not None
    _, other_form, name = found
    form = trial.loss.form(other_form)
    target = case.tensors[name]
    at = list(form.tensors).index(name)
    if not target.size:
        raise NotJudged(Excuse.NOT_ABOUT)
    classes = case.axis_sizes(trial.loss)[trial.loss.classes]
    hot = (target[..., None] == np.arange(classes)).astype(next(iter(case.tensors.values())).dtype)
    hot = np.moveaxis(hot, -1, contract.expand(case.spread).inputs[at].index(trial.loss.classes))
    known = trial.loss.parameters_of(form)
    other = case.with_(
        form=form.name,
        contract=contract.text,
        tensors={**case.tensors, name: hot},
        parameters={n: v for n, v in case.parameters.items() if n in known},
        omitted=case.omitted & set(known),
        layouts={n: v for n, v in case.layouts.items() if n != name},
        requires_grad=tuple(n for n in case.requires_grad if n != name),
    )
    return _agree(trial, other, "'sum' with the one-hot target", "sum")


def _unbatched(loss: Loss, surface: Surface) -> bool:
    return independent(loss, surface) and any(
        contract.core
        and not loss.batched(contract)
        and any(loss.batched(c) for c in form.contracts)
        for form in loss.forms
        for contract in form.contracts
    )


def _with_batch(trial: Trial) -> Shape | None:
    """Return the contract of an unbatched call with a batch axis added; None without one."""
    shape, batch = trial.case.shape, trial.loss.batch
    if trial.loss.batched(shape) or not shape.core:
        return None
    for contract in trial.form.contracts:
        batched = contract.expand(trial.case.spread)
        alike = len(batched.inputs) == len(shape.inputs) and all(
            tuple(a for a in with_n if a != batch) == without
            for with_n, without in zip(batched.inputs, shape.inputs, strict=True)
        )
        if trial.loss.batched(contract) and alike:
            return contract
    return None


@precondition()
def _is_one_sample(trial: Trial) -> bool:
    """The call has one sample and no batch axis, and the contract allows one."""
    return _with_batch(trial) is not None


@clause(_unbatched, enough=ENOUGH, requires=[_is_one_sample, has_its_dtype])
def no_batch_is_batch_of_one(trial: Trial) -> Judgement:
    """A sample without a batch axis gives the same `sum` and `mean` as a batch of this sample."""
    case, form, batch, contract = trial.case, trial.form, trial.loss.batch, _with_batch(trial)
    assert contract is not None
    batched = contract.expand(case.spread)
    tensors = dict(case.tensors)
    for name, axes in zip(form.tensors, batched.inputs, strict=True):
        if batch in axes:
            tensors[name] = np.expand_dims(tensors[name], axes.index(batch))
    other = case.with_(
        contract=contract.text,
        tensors=tensors,
        cotangent=np.expand_dims(case.cotangent, batched.result.index(batch)),
        layouts={},
    )
    return _agree_reduced(trial, other, "of a batch of one")


def _spreads(loss: Loss, surface: Surface) -> bool:
    return independent(loss, surface) and any(
        _flat(loss, form, contract) for form in loss.forms for contract in form.contracts
    )


def _flat(loss: Loss, form: Form, spread: Shape) -> Shape | None:
    """Return the contract that equals another one without its further axes; None without one."""
    without = [tuple(a for a in axes if a != "d*") for axes in spread.inputs]
    for contract in form.contracts:
        if contract is not spread and list(contract.inputs) == without and loss.batched(spread):
            return contract if all(axes[0] == loss.batch for axes in without) else None
    return None


def _flattened(trial: Trial) -> Shape | None:
    """Return the contract of a call without its further axes; None without one."""
    contract = next(c for c in trial.form.contracts if c.text == trial.case.contract)
    return _flat(trial.loss, trial.form, contract)


@precondition()
def _has_further_axes(trial: Trial) -> bool:
    """The call has further axes, and the contract allows their positions as samples."""
    return _flattened(trial) is not None


@precondition()
def _options_without_further_axes(trial: Trial) -> bool:
    """No optional tensor of the call has the further axes."""
    options = [trial.loss.options[n] for n in trial.case.tensors if n not in trial.form.tensors]
    return all((role.shape or "").startswith("(") for role in options)


@clause(
    _spreads,
    enough=ENOUGH,
    requires=[_has_further_axes, _options_without_further_axes, has_its_dtype],
)
def further_axes_are_samples(trial: Trial) -> Judgement:
    """With axes besides batch and classes, `sum` and `mean` are those of one batch in which every
    position is a sample."""
    case, form, flat = trial.case, trial.form, _flattened(trial)
    assert flat is not None
    tensors = dict(case.tensors)
    for name, axes in zip(form.tensors, case.shape.inputs, strict=True):
        loop = [i for i, axis in enumerate(axes) if axis in case.shape.result]
        core = [i for i, axis in enumerate(axes) if axis not in case.shape.result]
        moved = case.tensors[name].transpose(loop + core)
        tensors[name] = moved.reshape(-1, *moved.shape[len(loop) :])
    other = case.with_(
        contract=flat.text,
        spread=0,
        tensors=tensors,
        cotangent=case.cotangent.reshape(-1),
        layouts={},
    )
    return _agree_reduced(trial, other, "with all positions as samples")


def _unreduced(loss: Loss, surface: Surface) -> bool:
    results = any(c.result for f in loss.forms for c in f.contracts)
    return independent(loss, surface) and "none" in loss.reductions and results


# Implementations have fast paths for default calls.
@precondition()
def _default_call(trial: Trial) -> bool:
    """Every parameter has its default, and no optional tensor is given."""
    case, known = trial.case, trial.loss.parameters_of(trial.form)
    plain = all(case.parameters[name] == known[name].default for name in known)
    return plain and set(case.tensors) == set(trial.form.tensors)


@precondition()
def _in_float32_or_float64(trial: Trial) -> bool:
    """The call is in float32 or float64."""
    return trial.case.dtype in ("float32", "float64")


@precondition(Excuse.TOO_EXPENSIVE)
def _fits_repeated(trial: Trial) -> bool:
    """The call is small enough to be repeated until it has a million numbers."""
    tensors = trial.case.tensors.values()
    return _copies(trial) * sum(array.size for array in tensors) <= LARGE_BATCH_ROOM


def _copies(trial: Trial) -> int:
    """Return how often the rows of a call are repeated in a large batch."""
    axis = first_axis(trial)
    assert axis is not None
    size = trial.case.axis_sizes(trial.loss)[axis]
    first = next(iter(trial.case.tensors.values()))
    return max(LARGE_BATCH_NUMBERS // max(first.size, 1), LARGE_BATCH_ROWS // size) + 1


@clause(
    _unreduced,
    enough=1,
    once=True,
    slow=True,
    requires=[
        _default_call,
        _in_float32_or_float64,
        takes_reduction("none"),
        several_along_first_axis,
        separable,
        _fits_repeated,
        some_loss_known,
        works,
        conforms,
    ],
)
def large_batch(trial: Trial) -> Judgement:
    """In a batch of about a million numbers, each row has the same loss and gradient as in a small
    batch."""
    case, axis = trial.case, first_axis(trial)
    assert axis is not None
    size = case.axis_sizes(trial.loss)[axis]
    rows = np.arange(size * _copies(trial)) % size
    if not trial.allows(part_along(trial.loss, case, axis, rows)):
        raise NotJudged(Excuse.NOT_ABOUT)
    outcome = _of_many(trial, axis, rows)
    got, what = trial.number(outcome), f"in a batch of {len(rows)} rows that repeat these"
    value = trial.expected.value("none").taken(rows, case.shape.result.index(axis))
    informative = trial.agree(required(got), value, f"the loss {what}", of=None)
    for name in case.requires_grad:
        axes = axes_of(trial.loss, trial.form, case.shape, name, case.tensors[name].ndim)
        slope = trial.expected.gradient(name, "none", case.upstream("none"))
        gradient = outcome.gradients[name]
        if axis not in axes or case.tensors[name].shape[axes.index(axis)] != size:
            trial.skipped[Excuse.NOT_ABOUT] += 1
        elif slope is None:
            trial.skipped[Excuse.UNDEFINED] += 1
        elif gradient is None:
            trial.skipped[Excuse.CALL_FAILS] += 1
        else:
            counted = trial.expected.counted_only(name, slope)
            want = counted.taken(rows, axes.index(axis))
            trial.agree(to_extended(gradient), want, f"the gradient of {name} {what}", of=None)
    return informative


def _of_many(trial: Trial, axis: str, rows: np.ndarray) -> Outcome:
    """Run a call with many rows, after ever larger parts.

    Raises:
        Unsupported: A part is slow, or the call would take too much memory.
    """
    require_room(trial, axis, len(rows), LARGE_BATCH_BYTES)
    for part in LARGE_BATCH_PARTS:  # time or memory may grow with the square of the rows
        some = part_along(trial.loss, trial.case, axis, rows[: len(rows) // part])
        start = time.process_time()  # wall time would count other processes
        outcome = perform(
            trial.under_test,
            some.with_(reduction="none", layouts={}, omitted=frozenset()),
            trial.device,
        )
        seconds = time.process_time() - start
        if seconds > LARGE_BATCH_SECONDS and part > 1:
            raise Unsupported(f"a part of {len(rows) // part} rows already takes {seconds:.1f} s")
    if outcome.error is not None:
        if out_of_memory(outcome.error):
            raise Unsupported(f"a batch of {len(rows)} rows does not fit into memory")
        raise failed(f"a batch of {len(rows)} rows", outcome.error, "a result")
    if outcome.oversized:
        value = outcome.value
        raise Deviation(
            f"the shape of the result for {len(rows)} rows",
            list(value.shape),
            "one loss for each row",
            check=None,
        )
    return outcome
