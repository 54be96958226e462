"""Clauses that compare an implementation with itself on two calls that must agree."""

from __future__ import annotations

import time
from inspect import signature
from typing import Any

import numpy as np

from lossspec.cases.axes import axes_of, part_along
from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause
from lossspec.clauses.precondition import (
    all_counted,
    conforms,
    first_axis,
    has_its_dtype,
    precondition,
    separable,
    several_along_first_axis,
    takes_reduction,
    works,
)
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
from lossspec.execution.outcome import Outcome, perform
from lossspec.execution.tensors import to_extended
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Form, Loss, Symmetry
from lossspec.spec.roles import ClassIndex, Distribution, Surface, Weight
from lossspec.spec.shapes import Shape
from lossspec.thresholds import (
    LARGE_BATCH_NUMBERS,
    LARGE_BATCH_PARTS,
    LARGE_BATCH_ROOM,
    LARGE_BATCH_ROWS,
    LARGE_BATCH_SECONDS,
    LAST_PLACES,
    OVERFLOW_MARGIN,
    SMALLEST_PLACES,
)

ENOUGH = 30


def _agree(trial: Trial, other: Case, what: str, reduction: str, order: Any = ...) -> bool:
    """Raise Deviation unless the other call gives this one's result, within the budget of each.

    NotJudged where one of the two calls cannot be made or gives no number. order : which elements
    of this result the other's are, where it is unreduced.
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
        # The call to show is the one at fault.
        shown, compared = trial.case.with_(reduction=reduction), f"compared to {what}"
        mine, theirs = theirs, mine
    # Both calls have the same exact result, and each its own budget, which is the same unless they
    # add up different numbers of parts.
    their_budget = allowed
    if reduction != "none" and other.parts(trial.loss) != trial.case.parts(trial.loss):
        their_budget = beside.expected.value(reduction).budget
    budget = np.where(np.isfinite(mine), allowed + their_budget, np.inf)
    want = Bounded.around(mine, budget, trial.case.dtype)
    return trial.agree(theirs, want, compared, case=shown)


def _wrong(got: np.ndarray, want: Bounded) -> bool:
    return got.shape != want.exact.shape or bool((want.error(got) > 1).any())


def _agree_reduced(trial: Trial, other: Case, what: str) -> bool:
    """As `_agree`, of the sum and of the mean."""
    return any_judged(
        trial, lambda name: _agree(trial, other, f"{name!r} {what}", name), ("sum", "mean")
    )


def _rows(trial: Trial) -> int:
    """The length of the batch axis; 0 where there is none."""
    case, loss = trial.case, trial.loss
    return case.axis_sizes(loss).get(loss.batch, 0) if loss.batched(case.shape) else 0


def _batched(loss: Loss, surface: Surface) -> bool:
    return any(loss.batched(contract) for form in loss.forms for contract in form.contracts)


@precondition()
def _several_rows(trial: Trial) -> bool:
    """The batch has at least two rows."""
    return _rows(trial) > 1


@clause(_batched, enough=ENOUGH, requires=[_several_rows, separable, has_its_dtype])
def batch_permutation(trial: Trial) -> Judgement:
    """Reversing the batch reverses the unreduced result, and changes nothing else."""
    rows = _rows(trial)
    order = np.arange(rows)[::-1]
    other = part_along(trial.loss, trial.case, trial.loss.batch, order)
    axis = trial.case.shape.result.index(trial.loss.batch)
    where = (slice(None),) * axis + (slice(None, None, -1),)
    return _agree(trial, other, "the batch reversed", "none", where)


def _cut(trial: Trial) -> int:
    """The row at which the batch can be cut, into unequal parts if allowed; 0 if at none."""
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
    """A part of the batch gives that part of the unreduced result."""
    rows, first = _rows(trial), _cut(trial)
    other = part_along(trial.loss, trial.case, trial.loss.batch, np.arange(first, rows))
    axis = trial.case.shape.result.index(trial.loss.batch)
    return _agree(
        trial, other, "the last rows alone", "none", (slice(None),) * axis + (slice(first, None),)
    )


@precondition()
def _some_rows_ignored(trial: Trial) -> bool:
    """Some rows of the batch are ignored and some are not."""
    counted = trial.expected.counted
    return counted.ndim == 1 and bool(counted.any()) and not counted.all()


@clause(
    lambda loss, surface: loss.ignores,
    enough=ENOUGH,
    requires=[_some_rows_ignored, has_its_dtype],
)
def ignored_is_deleted(trial: Trial) -> Judgement:
    """Leaving ignored rows out changes neither sum nor mean."""
    counted = trial.expected.counted
    other = part_along(trial.loss, trial.case, trial.loss.batch, np.flatnonzero(counted))
    return _agree_reduced(trial, other, "without the ignored rows")


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
    """The contract allows to renumber the classes."""
    return trial.permutable


# The ignored class would move with the others.
@precondition(Excuse.IGNORED)
def _no_class_ignored(trial: Trial) -> bool:
    """No class of the call is the ignored one."""
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
    """The order of the classes does not matter."""
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
    return _agree(trial, other.with_(tensors=tensors), "the classes reversed", "none")


@precondition()
def _finite_logits(trial: Trial) -> bool:
    """The first tensor holds finite logits."""
    first, role = next(iter(trial.form.tensors.items()))
    x = trial.case.tensors[first]
    return role.style == "logit" and bool(x.size and np.isfinite(x.astype(np.float64)).all())


# In float64, in which other dtypes may be computed, an offset of this size would matter.
@precondition()
def _narrower_than_float64(trial: Trial) -> bool:
    """The call is in a dtype narrower than float64."""
    return trial.case.dtype != "float64"


@clause(
    lambda loss, surface: loss.shift_invariant,
    enough=ENOUGH,
    requires=[_narrower_than_float64, _finite_logits, works, conforms],
)
def shift_invariance(trial: Trial) -> Judgement:
    """A common offset of all logits, however large, changes neither the loss nor its gradient."""
    case = trial.case
    first = next(iter(trial.form.tensors))
    x = case.tensors[first]
    # Numbers on a grid that the dtype still resolves beside the offset, so that the sum is exact.
    grid = np.clip(np.round(x.astype(np.float64) * 4) / 4, -7, 7)
    offset = 2.0 ** (-np.log2(precision(case.dtype).unit) - 4)
    plain = case.with_(tensors={**case.tensors, first: np.asarray(grid).astype(x.dtype)})
    moved = case.with_(tensors={**case.tensors, first: np.asarray(grid + offset).astype(x.dtype)})
    solved = SolvedCase(trial.loss, plain)
    beside = Trial(trial.under_test, SolvedCase(trial.loss, moved), trial.device)
    got = required(beside.number(beside.outcome))
    want = solved.expected.value(case.reduction)
    when = f"with {offset:g} added to all logits"
    informative = trial.agree(got, want, f"the value {when}", case=moved)
    slope, gradient = solved.expected.gradients().get(first), beside.outcome.gradients.get(first)
    if slope is not None and gradient is not None:
        informative |= trial.agree(
            to_extended(gradient),
            slope,
            f"the gradient {when}",
            of=f"gradients[{first!r}]",
            case=moved,
        )
    return informative


@clause(lambda loss, surface: bool(loss.symmetries), enough=ENOUGH)
def symmetry(trial: Trial) -> Judgement:
    """Where the definition is symmetric, so are value and gradient, at ties as well."""

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
    """The tensors of a symmetric call; NotJudged where there is none with exact numbers."""
    if any(name in case.tensors for name in change.without):
        raise NotJudged(Excuse.NOT_ABOUT)
    tensors = dict(case.tensors)
    for name, (source, factor, offset) in change.maps.items():
        old = case.tensors[source]
        moved = factor * as_extended(old) + offset
        new = np.asarray(moved.astype(old.dtype))
        if not np.array_equal(as_extended(new), np.asarray(moved), equal_nan=True):
            raise NotJudged(Excuse.NOT_ABOUT, "the symmetric call is not exact in this dtype")
        tensors[name] = new
    return tensors


def _close_gradients(trial: Trial, here: Trial, there: Trial, change: Symmetry, name: str) -> None:
    """Compare a gradient of the symmetric call with the one of this call that it mirrors."""
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
    """Equal but for a few units in the last place, and for what rounding explains in each."""
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
    """Twice the sum of the losses, and of the terms they are made of, is below the largest
    number of the dtype."""
    size = np.abs(trial.expected.losses).sum()
    return bool(OVERFLOW_MARGIN * size < precision(trial.case.dtype).largest)


def _divides(form: Form, name: str) -> bool:
    """Whether a tensor is part of the divisor of the mean."""
    return form.divisor is not None and name in signature(form.divisor).parameters


def _dividing_weights(trial: Trial) -> dict[str, np.ndarray]:
    """The weights of a call that are part of the divisor of its mean."""
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
    """Doubling all weights leaves the mean that divides by their sum as it was."""
    case, weights = trial.case, _dividing_weights(trial)
    with np.errstate(over="ignore"):
        doubled = {
            name: np.asarray(weight * weight.dtype.type(2)).astype(weight.dtype)
            for name, weight in weights.items()
        }
    other = case.with_(tensors={**case.tensors, **doubled})
    return _agree(trial, other, "the mean with doubled weights", "mean")


@clause(
    lambda loss, surface: any(
        role.default == 1 and surface in role.surfaces for role in loss.options.values()
    ),
    enough=ENOUGH,
    requires=[has_its_dtype],
)
def neutral_weight(trial: Trial) -> Judgement:
    """A weight of ones is no weight."""
    case = trial.case

    def judged(name: str) -> bool:
        ones = trial.ones(name)
        if ones is None:
            raise NotJudged(Excuse.NOT_ABOUT)
        other = case.with_(tensors={**case.tensors, name: ones})
        return _agree(trial, other, f"{name} of ones", case.reduction)

    options = trial.loss.options.items()
    return any_judged(
        trial, judged, [n for n, role in options if role.default == 1 and _can_add(trial, n)]
    )


def _can_add(trial: Trial, name: str) -> bool:
    """Whether a call lacks an optional tensor that the implementation takes."""
    under_test, role = trial.under_test, trial.loss.options[name]
    takes = under_test.takes(name) and under_test.surface in role.surfaces
    return takes and name not in trial.case.tensors


def _two_targets(loss: Loss, surface: Surface) -> bool:
    return _certain_form(loss) is not None


def _certain_form(loss: Loss) -> tuple[str, str, str] | None:
    """The names of an index form, of the distribution form beside it, and of their target."""
    for form in loss.forms:
        for name, role in form.tensors.items():
            if isinstance(role, ClassIndex) and role.one_hot:
                for other in loss.forms:
                    if isinstance(other.tensors.get(name), Distribution):
                        return form.name, other.name, name
    return None


@precondition()
def _index_with_a_distribution_beside(trial: Trial) -> bool:
    """The call gives class indices, in place of which a distribution is allowed."""
    found = _certain_form(trial.loss)
    return found is not None and trial.case.form == found[0]


# 0 times the -inf of a class that is ruled out is what the documentation leaves open.
@precondition(Excuse.UNDEFINED)
def _finite_first_tensor(trial: Trial) -> bool:
    """Every number of the first tensor is finite."""
    first = next(iter(trial.case.tensors.values()))
    return bool(np.isfinite(first.astype(np.float64)).all())


def _contract_of_distribution(trial: Trial) -> Shape | None:
    """The contract with a distribution in place of the indices of a call; None if there is none."""
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
    """A distribution is allowed for tensors of these shapes."""
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
    """A class index gives the same sum as the one-hot distribution of that class."""
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
    return _agree(trial, other, "the one-hot target", "sum")


def _unbatched(loss: Loss, surface: Surface) -> bool:
    return any(
        contract.core
        and not loss.batched(contract)
        and any(loss.batched(c) for c in form.contracts)
        for form in loss.forms
        for contract in form.contracts
    )


def _with_batch(trial: Trial) -> Shape | None:
    """The contract of a call of one sample with the batch axis that it lacks; None if none is."""
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
    """The call is of one sample without a batch axis, which it may have."""
    return _with_batch(trial) is not None


@clause(_unbatched, enough=ENOUGH, requires=[_is_one_sample, has_its_dtype])
def no_batch_is_batch_of_one(trial: Trial) -> Judgement:
    """A single sample gives what a batch of that one sample gives."""
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
    return any(_flat(loss, form, contract) for form in loss.forms for contract in form.contracts)


def _flat(loss: Loss, form: Form, spread: Shape) -> Shape | None:
    """The contract that is another one without its further axes, samples first."""
    without = [tuple(a for a in axes if a != "d*") for axes in spread.inputs]
    for contract in form.contracts:
        if contract is not spread and list(contract.inputs) == without and loss.batched(spread):
            return contract if all(axes[0] == loss.batch for axes in without) else None
    return None


def _flattened(trial: Trial) -> Shape | None:
    """The contract without the further axes of a call; None where there is none."""
    contract = next(c for c in trial.form.contracts if c.text == trial.case.contract)
    return _flat(trial.loss, trial.form, contract)


@precondition()
def _has_further_axes(trial: Trial) -> bool:
    """The call has further axes, whose positions may be samples instead."""
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
    """With further axes, sum and mean are those of one batch with every position as a sample."""
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
    return _agree_reduced(trial, other, "of all positions")


def _unreduced(loss: Loss, surface: Surface) -> bool:
    return "none" in loss.reductions and any(c.result for f in loss.forms for c in f.contracts)


# Fast paths are for such calls.
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


@precondition(Excuse.TOO_UNCERTAIN)
def _some_loss_known(trial: Trial) -> bool:
    """Rounding explains less than a tenth of some element of the loss."""
    return trial.expected.value("none").informative


@precondition(Excuse.TOO_EXPENSIVE)
def _fits_repeated(trial: Trial) -> bool:
    """The call is small enough to be repeated until it has a million numbers."""
    tensors = trial.case.tensors.values()
    return _copies(trial) * sum(array.size for array in tensors) <= LARGE_BATCH_ROOM


def _copies(trial: Trial) -> int:
    """How often the rows of a call are repeated in a large batch."""
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
        _some_loss_known,
        works,
        conforms,
    ],
)
def large_batch(trial: Trial) -> Judgement:
    """Among a million numbers each row has the loss and the gradient that it has among few."""
    case, axis = trial.case, first_axis(trial)
    assert axis is not None
    size = case.axis_sizes(trial.loss)[axis]
    rows = np.arange(size * _copies(trial)) % size
    if not trial.allows(part_along(trial.loss, case, axis, rows)):
        raise NotJudged(Excuse.NOT_ABOUT)
    outcome = _of_many(trial, axis, rows)
    got, what = trial.number(outcome), f"in a batch of {len(rows)} rows, these again and again"
    value = _repeated(trial.expected.value("none"), rows, case.shape.result.index(axis))
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
            want = _repeated(counted, rows, axes.index(axis))
            trial.agree(to_extended(gradient), want, f"the gradient of {name} {what}", of=None)
    return informative


def _of_many(trial: Trial, axis: str, rows: np.ndarray) -> Outcome:
    """Call with so many rows, after calls with parts of them; Unsupported where that takes long."""
    for part in LARGE_BATCH_PARTS:  # lest what is slow, or keeps every pair of rows, take forever
        some = part_along(trial.loss, trial.case, axis, rows[: len(rows) // part])
        start = time.process_time()  # not of others on a busy machine
        outcome = perform(
            trial.under_test,
            some.with_(reduction="none", layouts={}, omitted=frozenset()),
            trial.device,
        )
        seconds = time.process_time() - start
        if seconds > LARGE_BATCH_SECONDS and part > 1:
            raise Unsupported(f"of {len(rows) // part} rows it takes {seconds:.1f} s already")
    if outcome.error is not None:
        if out_of_memory(outcome.error):
            raise Unsupported(f"the memory here does not hold {len(rows)} rows of it")
        raise failed(f"a batch of {len(rows)} rows", outcome.error, "a result")
    if outcome.oversized:
        value = outcome.value
        raise Deviation(
            f"the shape of {len(rows)} rows", list(value.shape), "a row each", check=None
        )
    return outcome


def _repeated(bounded: Bounded, rows: np.ndarray, axis: int) -> Bounded:
    """The same numbers for each of many rows, which repeat a few."""
    exact, budget, low, high = (
        part.take(rows, axis) for part in (bounded.exact, bounded.budget, bounded.low, bounded.high)
    )
    return Bounded(exact, budget, low, high, bounded.dtype, bounded.free_axis)
