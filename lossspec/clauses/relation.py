"""Clauses that compare an implementation with itself on two calls that must agree."""

from __future__ import annotations

import time
from inspect import signature
from typing import Any

import numpy as np

from lossspec.cases.axes import axes_of, part_along
from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause
from lossspec.clauses.trial import Deviation, Trial, Unsupported, failed
from lossspec.dtypes import as_extended, precision
from lossspec.execution.messages import out_of_memory
from lossspec.execution.outcome import perform
from lossspec.execution.tensors import to_extended
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import SolvedCase
from lossspec.spec.loss import Form, Loss
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


def _agree(trial: Trial, other: Case, what: str, reduction: str, order: Any = ...) -> Judgement:
    """Raise Deviation unless the other call gives this one's result, within the budget of each.

    order : which elements of this result the other's are, where it is unreduced.
    """
    if not trial.can(reduction) or not trial.precise or not trial.allows(other):
        return None
    mine = trial.under(reduction)
    beside = Trial(
        trial.under_test, SolvedCase(trial.loss, other.with_(reduction=reduction)), trial.device
    )
    theirs = beside.number(beside.outcome)
    if mine is None or theirs is None:
        return None
    here = trial.expected.value(reduction)
    if mine.shape != here.exact.shape:
        return None
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


def _agree_reduced(trial: Trial, other: Case, what: str) -> Judgement:
    """As `_agree`, of the sum and of the mean."""
    each = (_agree(trial, other, f"{r!r} {what}", r) for r in ("sum", "mean"))
    judged = [informative for informative in each if informative is not None]
    return any(judged) if judged else None


def _rows(trial: Trial) -> int:
    """The length of the batch axis; 0 where there is none."""
    case, loss = trial.case, trial.loss
    return case.axis_sizes(loss).get(loss.batch, 0) if loss.batched(case.shape) else 0


def _batched(loss: Loss, surface: Surface) -> bool:
    return any(loss.batched(contract) for form in loss.forms for contract in form.contracts)


@clause(_batched, enough=ENOUGH)
def batch_permutation(trial: Trial) -> Judgement:
    """Reversing the batch reverses the unreduced result, and changes nothing else."""
    rows = _rows(trial)
    if rows < 2 or not trial.separable:
        return None
    order = np.arange(rows)[::-1]
    other = part_along(trial.loss, trial.case, trial.loss.batch, order)
    axis = trial.case.shape.result.index(trial.loss.batch)
    where = (slice(None),) * axis + (slice(None, None, -1),)
    return _agree(trial, other, "the batch reversed", "none", where)


@clause(_batched, enough=ENOUGH)
def batch_split(trial: Trial) -> Judgement:
    """A part of the batch gives that part of the unreduced result."""
    rows, given, batch = _rows(trial), trial.case.parameters, trial.loss.batch
    if rows < 2 or not trial.separable:
        return None
    sizes = trial.case.axis_sizes(trial.loss)
    parts = (rows // 3 + 1, *range(rows - 1, 0, -1))  # two parts of unequal length, if allowed
    allowed = (n for n in parts if trial.loss.allows(trial.form, sizes | {batch: n}, given))
    first = rows - next(allowed, rows)
    if not first:
        return None
    other = part_along(trial.loss, trial.case, trial.loss.batch, np.arange(first, rows))
    axis = trial.case.shape.result.index(trial.loss.batch)
    return _agree(
        trial, other, "the last rows alone", "none", (slice(None),) * axis + (slice(first, None),)
    )


@clause(lambda loss, surface: loss.ignores, enough=ENOUGH)
def ignored_is_deleted(trial: Trial) -> Judgement:
    """Leaving ignored rows out changes neither sum nor mean."""
    counted = trial.expected.counted
    if counted.ndim != 1 or counted.all() or not counted.any():
        return None
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


@clause(_has_classes, enough=ENOUGH)
def class_permutation(trial: Trial) -> Judgement:
    """The order of the classes does not matter."""
    case, form, axis = trial.case, trial.form, trial.loss.classes
    classes = case.axis_sizes(trial.loss).get(axis, 0)
    indices = [n for n, role in form.tensors.items() if isinstance(role, ClassIndex)]
    if classes < 2 or axis not in case.shape.core or not trial.permutable:
        return None
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
            if 0 <= case.parameters[role.ignored_by] < classes:
                return None  # the ignored class would move too
        tensors[name] = np.where(inside, classes - 1 - target, target).astype(target.dtype)
    return _agree(trial, other.with_(tensors=tensors), "the classes reversed", "none")


@clause(lambda loss, surface: loss.shift_invariant, enough=ENOUGH)
def shift_invariance(trial: Trial) -> Judgement:
    """A common offset of all logits, however large, changes neither the loss nor its gradient."""
    case = trial.case
    first, role = next(iter(trial.form.tensors.items()))
    x = case.tensors[first]
    if role.style != "logit" or not x.size or not np.isfinite(x.astype(np.float64)).all():
        return None
    if case.dtype == "float64":
        return None  # in which others are computed, lest an offset matter
    if not trial.worked or not trial.conforms:
        return None  # not by a common offset
    # Numbers on a grid that the dtype still resolves beside the offset, so that the sum is exact.
    grid = np.clip(np.round(x.astype(np.float64) * 4) / 4, -7, 7)
    offset = 2.0 ** (-np.log2(precision(case.dtype).unit) - 4)
    plain = case.with_(tensors={**case.tensors, first: np.asarray(grid).astype(x.dtype)})
    moved = case.with_(tensors={**case.tensors, first: np.asarray(grid + offset).astype(x.dtype)})
    solved = SolvedCase(trial.loss, plain)
    beside = Trial(trial.under_test, SolvedCase(trial.loss, moved), trial.device)
    got = beside.number(beside.outcome)
    if got is None:
        return None
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
    case = trial.case
    judged = None
    for change in trial.loss.symmetries:
        if any(name in case.tensors for name in change.without):
            continue
        tensors = dict(case.tensors)
        for name, (source, factor, offset) in change.maps.items():
            old = case.tensors[source]
            new = (factor * as_extended(old) + offset).astype(old.dtype)
            moved = factor * as_extended(old) + offset
            if not np.array_equal(as_extended(np.asarray(new)), np.asarray(moved), equal_nan=True):
                return None  # not exact in this dtype
            tensors[name] = np.asarray(new)
        slopes = tuple(name for name in change.maps if name in trial.differentiable)
        other = case.with_(tensors=tensors, requires_grad=slopes, layouts={})
        mine = case.with_(requires_grad=slopes, layouts={})
        here = Trial(trial.under_test, SolvedCase(trial.loss, mine), trial.device)
        there = Trial(trial.under_test, SolvedCase(trial.loss, other), trial.device)
        if here.outcome.error is not None or there.outcome.error is not None:
            continue
        a, b = here.number(here.outcome), there.number(there.outcome)
        if a is None or b is None or a.shape != b.shape:
            continue
        value = here.expected.value(case.reduction)
        judged = _close(trial, b, a, value, change.says, "value", other) or judged or False
        upstream = case.upstream(case.reduction)
        for name in slopes:
            source, factor, _ = change.maps[name]
            if source not in slopes:
                continue
            one, two = here.outcome.gradients[source], there.outcome.gradients[name]
            slope = here.expected.gradient(source, case.reduction, upstream)
            if one is None or two is None or slope is None:
                continue
            _close(
                trial,
                to_extended(two),
                to_extended(one) / factor,
                slope,
                f"{change.says}: the gradient of {name}",
                f"gradients[{name!r}]",
                other,
            )
    return judged


def _close(
    trial: Trial,
    got: np.ndarray,
    want: np.ndarray,
    allowed: Bounded,
    what: str,
    of: str,
    case: Case,
) -> Judgement:
    """Equal but for a few units in the last place, and for what rounding explains in each."""
    dtype = precision(trial.case.dtype)
    if want.shape != allowed.exact.shape:
        return None
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


def _large(trial: Trial) -> bool:
    """Whether twice the sum of the losses, and of the terms they are made of, may overflow."""
    size = np.abs(trial.expected.losses).sum()
    return not bool(OVERFLOW_MARGIN * size < precision(trial.case.dtype).largest)


def _divides(form: Form, name: str) -> bool:
    """Whether a tensor is part of the divisor of the mean."""
    return form.divisor is not None and name in signature(form.divisor).parameters


@clause(_weighted_mean, enough=ENOUGH)
def weight_scale(trial: Trial) -> Judgement:
    """Doubling all weights leaves the mean that divides by their sum as it was."""
    case = trial.case
    weights = {
        name: case.tensors[name]
        for name, role in trial.loss.options.items()
        if isinstance(role, Weight) and name in case.tensors and _divides(trial.form, name)
    }
    if not weights:
        return None
    with np.errstate(over="ignore"):
        doubled = {
            name: np.asarray(weight * weight.dtype.type(2)).astype(weight.dtype)
            for name, weight in weights.items()
        }
    # A sum that overflows is for the clauses on the value to judge.
    if _large(trial):
        return None
    other = case.with_(tensors={**case.tensors, **doubled})
    return _agree(trial, other, "the mean with doubled weights", "mean")


@clause(
    lambda loss, surface: any(
        role.default == 1 and surface in role.surfaces for role in loss.options.values()
    ),
    enough=ENOUGH,
)
def neutral_weight(trial: Trial) -> Judgement:
    """A weight of ones is no weight."""
    case = trial.case
    judged = None
    for name, role in trial.loss.options.items():
        if role.default != 1 or not trial.under_test.takes(name) or name in case.tensors:
            continue
        if trial.under_test.surface not in role.surfaces:
            continue
        ones = trial.ones(name)
        if ones is None:
            continue
        other = case.with_(tensors={**case.tensors, name: ones})
        judged = _agree(trial, other, f"{name} of ones", case.reduction) or judged or False
    return judged


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


@clause(_two_targets, enough=ENOUGH)
def index_is_one_hot(trial: Trial) -> Judgement:
    """A class index gives the same sum as the one-hot distribution of that class."""
    found = _certain_form(trial.loss)
    case = trial.case
    if found is None or case.form != found[0] or not trial.expected.counted.all():
        return None
    # 0 times the -inf of a class that is ruled out is what the documentation leaves open.
    if not np.isfinite(next(iter(case.tensors.values())).astype(np.float64)).all():
        return None
    name = found[2]
    form = trial.loss.form(found[1])
    target = case.tensors[name]
    if not target.size:
        return None
    at = list(form.tensors).index(name)
    others = [axes for i, axes in enumerate(case.shape.inputs) if i != at]
    contract = next(
        (
            contract
            for contract in form.contracts
            for axes in [contract.expand(case.spread).inputs]
            if [one for i, one in enumerate(axes) if i != at] == others
            and trial.loss.classes in axes[at]
        ),
        None,
    )
    if contract is None:
        return None
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


@clause(_unbatched, enough=ENOUGH)
def no_batch_is_batch_of_one(trial: Trial) -> Judgement:
    """A single sample gives what a batch of that one sample gives."""
    case, form, batch = trial.case, trial.form, trial.loss.batch
    shape = case.shape
    if trial.loss.batched(shape) or not shape.core:
        return None
    for contract in form.contracts:
        batched = contract.expand(case.spread)
        alike = len(batched.inputs) == len(shape.inputs) and all(
            tuple(a for a in with_n if a != batch) == without
            for with_n, without in zip(batched.inputs, shape.inputs, strict=True)
        )
        if not trial.loss.batched(contract) or not alike:
            continue
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
    return None


def _spreads(loss: Loss, surface: Surface) -> bool:
    return any(_flat(loss, form, contract) for form in loss.forms for contract in form.contracts)


def _flat(loss: Loss, form: Form, spread: Shape) -> Shape | None:
    """The contract that is another one without its further axes, samples first."""
    without = [tuple(a for a in axes if a != "d*") for axes in spread.inputs]
    for contract in form.contracts:
        if contract is not spread and list(contract.inputs) == without and loss.batched(spread):
            return contract if all(axes[0] == loss.batch for axes in without) else None
    return None


@clause(_spreads, enough=ENOUGH)
def further_axes_are_samples(trial: Trial) -> Judgement:
    """With further axes, sum and mean are those of one batch with every position as a sample."""
    case, form = trial.case, trial.form
    contract = next(c for c in form.contracts if c.text == case.contract)
    flat = _flat(trial.loss, form, contract)
    options = [trial.loss.options[name] for name in case.tensors if name not in form.tensors]
    if flat is None or any(not (role.shape or "").startswith("(") for role in options):
        return None
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


@clause(_unreduced, enough=1, once=True, slow=True)
def large_batch(trial: Trial) -> Judgement:
    """Among a million numbers each row has the loss and the gradient that it has among few."""
    case, loss, names = trial.case, trial.loss, trial.case.shape.result
    known = loss.parameters_of(trial.form)
    plain = all(case.parameters[name] == known[name].default for name in known)
    if not plain or set(case.tensors) != set(trial.form.tensors) or not names:
        return None  # a fast path is for the plain call
    if case.dtype not in ("float32", "float64") or not trial.separable or not trial.can("none"):
        return None
    axis = loss.batch if loss.batch in names else names[0]
    size = case.axis_sizes(loss)[axis]
    if size < 2 or not trial.worked or not trial.conforms:
        return None
    if not trial.expected.value("none").informative:
        return None
    first = next(iter(case.tensors.values()))
    copies = max(LARGE_BATCH_NUMBERS // max(first.size, 1), LARGE_BATCH_ROWS // size) + 1
    if copies * sum(array.size for array in case.tensors.values()) > LARGE_BATCH_ROOM:
        return None
    rows = np.arange(size * copies) % size
    if not trial.allows(part_along(loss, case, axis, rows)):
        return None
    for part in LARGE_BATCH_PARTS:  # lest what is slow, or keeps every pair of rows, take forever
        some = part_along(loss, case, axis, rows[: len(rows) // part])
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
    got, what = trial.number(outcome), f"in a batch of {len(rows)} rows, these again and again"
    if got is None:
        return None
    value = _repeated(trial.expected.value("none"), rows, names.index(axis))
    informative = trial.agree(got, value, f"the loss {what}", of=None)
    for name in case.requires_grad:
        axes = axes_of(loss, trial.form, case.shape, name, case.tensors[name].ndim)
        slope = trial.expected.gradient(name, "none", case.upstream("none"))
        gradient = outcome.gradients[name]
        if axis not in axes or slope is None or gradient is None:
            continue
        along = axes.index(axis)
        if case.tensors[name].shape[along] == size:
            slope = _repeated(trial.expected.counted_only(name, slope), rows, along)
            trial.agree(to_extended(gradient), slope, f"the gradient of {name} {what}", of=None)
    return informative


def _repeated(bounded: Bounded, rows: np.ndarray, axis: int) -> Bounded:
    """The same numbers for each of many rows, which repeat a few."""
    exact, budget, low, high = (
        part.take(rows, axis) for part in (bounded.exact, bounded.budget, bounded.low, bounded.high)
    )
    return Bounded(exact, budget, low, high, bounded.dtype, bounded.free_axis)
