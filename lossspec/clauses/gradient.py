"""Clauses on gradients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, takewhile
from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.cases.workloads import Size, axes, batch_axis, of_several_axes, workload
from lossspec.clauses import Judgement, clause, stateless
from lossspec.clauses.ability import lacking, raised
from lossspec.clauses.precondition import (
    conforms,
    differentiable_twice,
    has_its_shape,
    precondition,
    takes_reduction,
    wants_gradients,
    works,
)
from lossspec.clauses.trial import (
    Deviation,
    NotJudged,
    Trial,
    Unsupported,
    any_judged,
    failed,
)
from lossspec.dtypes import Extended, as_extended, precision
from lossspec.excuse import Excuse
from lossspec.execution.call import (
    arguments,
    constructed,
    handed,
    invoke,
    unsupported_argument,
)
from lossspec.execution.declaration import Ability
from lossspec.execution.messages import differentiable_once
from lossspec.execution.outcome import differentiable, perform
from lossspec.execution.support import leaves_torch
from lossspec.execution.tensors import to_extended, to_torch
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import SolvedCase, solve_second
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Role, Surface
from lossspec.thresholds import (
    SECOND_ORDER_LARGEST,
    SECOND_ORDER_SIZES,
    SECOND_ORDER_SMALLEST,
    SLACK,
)


@precondition(Excuse.CALL_FAILS)
def _goes_backward(trial: Trial) -> bool:
    """The call and its backward raise no error, and the result is small enough to read."""
    return trial.outcome.error is None and not trial.outcome.oversized


@precondition(Excuse.CALL_FAILS)
def _first_has_a_gradient(trial: Trial) -> bool:
    """Backward gives the first tensor a gradient."""
    return trial.outcome.gradients.get(next(iter(trial.form.tensors))) is not None


@precondition(Excuse.UNDEFINED)
def _mean_of_something(trial: Trial) -> bool:
    """The reduction is not `mean`, or at least one element is not ignored."""
    return trial.case.reduction != "mean" or bool(trial.expected.counted.any())


@precondition()
def _ignores_elements(trial: Trial) -> bool:
    """At least one element of the loss is ignored."""
    return not trial.expected.counted.all()


@precondition()
def _of_float32(trial: Trial) -> bool:
    """The call is in float32, since kernels add undocumented epsilons that show in float64."""
    return trial.case.dtype == "float32"


@precondition(Excuse.NOT_DIFFERENTIABLE)
def _of_differentiable_tensors(trial: Trial) -> bool:
    """At least one input has a documented gradient, and each such input is a tensor."""
    roles, names = trial.loss.roles(trial.form), trial.differentiable
    return bool(names) and not any(roles[name].scalar for name in names)


@precondition(Excuse.TOO_UNCERTAIN)
def _of_moderate_size(trial: Trial) -> bool:
    """Every number is 0, or its magnitude is from 1e-8 to 8, if need be after scaling all tensors
    without limits by the same factor."""
    return next(_of_all_sizes(trial), None) is not None


def _of_all_sizes(trial: Trial) -> Iterator[Case]:
    """Yield the case, and copies with smaller numbers, as far as their numbers are moderate.

    With smaller numbers more differences lie below a threshold, in another piece of the loss.
    """
    case, roles = trial.case, trial.loss.roles(trial.form)
    free = [name for name in case.tensors if _unlimited(roles[name])]
    largest = max((np.abs(as_extended(case.tensors[n])).max(initial=0) for n in free), default=0)
    scales = [size / largest for size in SECOND_ORDER_SIZES if 0 < size < largest < np.inf]
    for factor in (1.0, *(2.0 ** np.floor(np.log2(float(scale))) for scale in scales)):
        scaled = {n: np.asarray(case.tensors[n] * factor, case.tensors[n].dtype) for n in free}
        smaller = case
        if factor != 1:  # `settle` may have a rule about small numbers, such as short vectors
            smaller = case.with_(tensors={**case.tensors, **scaled}).settled(trial.loss)
        if _moderate(trial, smaller) and trial.allows(smaller):
            yield smaller


def _unlimited(role: Role) -> bool:
    """Return whether a tensor may hold any number."""
    limited = role.low > -np.inf or role.high < np.inf
    return not (limited or role.integer or role.scalar or isinstance(role, Constrained))


def _moderate(trial: Trial, case: Case) -> bool:
    """Return whether every number of a differentiable tensor is 0 or of moderate size."""
    sizes = [np.abs(case.tensors[name]) for name in trial.differentiable]
    return not any(
        (size > SECOND_ORDER_LARGEST).any() or ((size > 0) & (size < SECOND_ORDER_SMALLEST)).any()
        for size in sizes
    )


# Empty tensors are judged too, since a result without a graph ends a training loop.
@clause(empty=True, requires=(wants_gradients, _goes_backward, has_its_shape))
def gradient(trial: Trial) -> Judgement:
    """For any cotangent, each tensor that requires a gradient gets one, which differs from that of
    the definition by no more than the error budget."""
    outcome = trial.outcome
    informative = False
    wants = trial.expected.gradients()
    present = {name: got for name in wants if (got := outcome.gradients[name]) is not None}
    # A missing gradient of an empty tensor changes nothing.
    missing = {
        name: list(want.exact.shape)
        for name, want in wants.items()
        if name not in present and want.exact.size
    }
    for name, got in present.items():
        want = wants[name]
        informative |= trial.agree(
            to_extended(got),
            want,
            f"the gradient of {name}",
            of=f"gradients[{name!r}]",
            gradient_of=name,
        )
    for name, shape in missing.items():
        raise Deviation(
            f"no gradient of {name}",
            "None",
            f"a gradient of shape {shape}",
            check=f"gradients[{name!r}] is not None",
            detached=not differentiable(outcome.value),
            missing=True,
            gradient_of=name,
        )
    return informative


#: The numbers of a cotangent that is expanded along one axis, again and again along the others.
EXPANDED = (1.0, -0.5, 2.0, 0.25, -1.5)


def _of_two_axes(loss: Loss, surface: Surface) -> bool:
    """Return whether an unreduced result of some form can have two axes."""
    results = [shape.result for form in loss.forms for shape in form.contracts]
    return "none" in loss.reductions and any(len(axes) > 1 or "*" in axes for axes in results)


@precondition()
def _two_long_axes(trial: Trial) -> bool:
    """The first and the last axis of the unreduced result are different, and each has at least two
    elements."""
    shape = trial.expected.losses.shape
    return len(shape) > 1 and shape[0] > 1 and shape[-1] > 1


@clause(
    _of_two_axes,
    enough=20,
    requires=[wants_gradients, takes_reduction("none"), _two_long_axes, works, conforms],
)
def expanded_cotangent(trial: Trial) -> Judgement:
    """For a cotangent that is expanded along the last or the first axis of an unreduced result, as
    a sum over one axis sends it, the gradients are right."""
    plain = _plain_of_several_axes(trial.loss)
    solved = [trial.solved] if plain is None else [trial.solved, plain]
    parts = [(one, axis) for one in solved for axis in (-1, 0)]
    return any_judged(trial, lambda part: _expanded_along(trial, *part), parts)


@lru_cache(maxsize=4)
def _plain_of_several_axes(loss: Loss) -> SolvedCase | None:
    """Return a default call whose unreduced result has several axes; None if there is none."""
    shape = of_several_axes(loss)
    if shape is None:
        return None
    sizes = axes(loss, Size("", 24, 3, None, "")) | dict.fromkeys(shape.result, 3)
    dtype = loss.default_dtype
    case = workload(loss, sizes, dtype, len(sizes), shape)
    return SolvedCase(loss, case.with_(reduction="none"))


def _expanded_along(trial: Trial, solved: SolvedCase, axis: int) -> bool:
    """Judge the gradients for a cotangent that is expanded along an axis."""
    case, expected = solved.case, solved.expected
    if unsupported_argument(trial.under_test, case.with_(reduction="none")) is not None:
        raise NotJudged(Excuse.NOT_SUPPORTED)
    shape = expected.losses.shape
    rest = tuple(size for at, size in enumerate(shape) if at != axis % len(shape))
    numbers = np.expand_dims(np.resize(EXPANDED, rest), axis)
    cotangent = np.broadcast_to(numbers, shape).astype(case.cotangent.dtype)
    case = case.with_(reduction="none", cotangent=cotangent)
    outcome = perform(trial.under_test, case, trial.device)
    where = "last" if axis else "first"
    what = f"a cotangent expanded along the {where} axis"
    if outcome.error is not None:
        raise failed(f"backward with {what}", outcome.error, "gradients", check=None, case=case)
    if getattr(outcome.value, "shape", None) != shape:  # clause `result-shape` reports it
        raise NotJudged(Excuse.CALL_FAILS)
    informative = False
    for name in case.requires_grad:
        gradient = outcome.gradients[name]
        want = expected.gradient(name, "none", cotangent)
        if gradient is None or want is None:
            continue  # clause `gradient` reports a missing gradient
        informative |= trial.agree(
            to_extended(gradient),
            expected.counted_only(name, want),
            f"the gradient of {name} for {what}",
            of=f"gradients[{name!r}]",
            case=case,
            gradient_of=name,
        )
    return informative


@clause(
    lambda loss, surface: loss.ignores,
    requires=(_ignores_elements, _first_has_a_gradient, _mean_of_something),
)
def ignored_gradient(trial: Trial) -> Judgement:
    """The gradient of the first input is exactly 0 in ignored rows, whatever numbers they hold."""
    first = next(iter(trial.form.tensors))
    gradient = trial.outcome.gradients[first]
    assert gradient is not None, "its precondition says so"
    got = to_extended(gradient)
    wrong = trial.expected.ignored(first, got.shape) & (got != 0)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise Deviation(
            f"the gradient of an ignored row at {list(at)}",
            got[at],
            0,
            check=f"gradients[{first!r}][{', '.join(map(str, at))}] == 0",
            gradient_of=first,
        )
    return True


def _curved(loss: Loss, surface: Surface) -> bool:
    smooth = loss.differentiable_twice and not loss.piecewise_linear
    return stateless(loss, surface) and smooth


@clause(
    _curved,
    enough=12,
    requires=(
        _of_float32,
        _of_differentiable_tensors,
        differentiable_twice,
        _of_moderate_size,
        works,
    ),
)
def second_order(trial: Trial) -> Judgement:
    """If the gradients can be differentiated, the second derivatives are those of the definition to
    half the digits of float32."""
    told: list[bool] = []

    default = _default_call(trial.loss, trial.case.reduction)

    def judged(case: Case) -> bool:
        if case is default.case:
            if not trial.can(case.reduction) or not trial.allows(case):
                raise NotJudged(Excuse.NOT_SUPPORTED)
            plain = Trial(trial.under_test, default, trial.device, bar=trial.bar)
            return _curvature_agrees(plain, default)
        solved = trial.solved if case is trial.case else SolvedCase(trial.loss, case)
        told.append(_curvature_agrees(trial, solved))
        return told[-1]

    sizes = takewhile(lambda case: not any(told), _of_all_sizes(trial))
    return any_judged(trial, judged, chain([default.case], sizes))


@lru_cache(maxsize=8)
def _default_call(loss: Loss, reduction: str) -> SolvedCase:
    """Return a default call of a few rows in float32, for which fused kernels are written."""
    sizes = axes(loss, Size("", 24, 3, None, "a few rows")) | {batch_axis(loss): 8}
    return SolvedCase(loss, workload(loss, sizes, "float32", 0).with_(reduction=reduction))


def _curvature_agrees(trial: Trial, solved: SolvedCase) -> bool:
    """Compare the second derivatives of a case; return whether a wrong one would have shown."""
    case, expected = solved.case.with_(requires_grad=trial.differentiable), solved.expected
    upstream = case.upstream(case.reduction)
    slopes = [expected.gradient(name, case.reduction, upstream) for name in case.requires_grad]
    if not all(slope is None or np.isfinite(slope.exact).all() for slope in slopes):
        raise NotJudged(Excuse.UNDEFINED, "a gradient is not finite")
    directions = _directions(expected, case)
    got = _curvature(trial, case, directions)
    wants = solve_second(expected, trial.loss, case.reduction, directions)
    if wants is None:
        raise NotJudged(Excuse.UNDEFINED, "the second derivative is NaN by the definition")
    informative = False
    for name, want in wants.items():
        want = expected.counted_only(name, want)
        informative |= trial.agree(
            got[name],
            want,
            f"the second derivative by {name}",
            of=f"curvatures[{name!r}]",
            case=case,
            gradient_of=name,
        )
    return informative


#: The reason for gradients that support only a single backward.
_ONCE = "its gradients cannot be differentiated"


def _directions(expected: Expected, case: Case) -> dict[str, np.ndarray]:
    """Return a direction for each tensor that requires a gradient, the same for the same case.

    Along an axis that sums to 1, the direction sums to 0.
    """
    rng = np.random.default_rng(len(case.tensors))
    directions = {}
    for name in case.requires_grad:
        direction = rng.choice([-1.0, 0.5, 1.0, 2.0], case.tensors[name].shape)
        if name in expected.simplex:
            along = np.moveaxis(direction, expected.simplex[name], -1)
            pairs = along.shape[-1] // 2
            along[..., pairs : 2 * pairs] = -along[..., :pairs]
            along[..., 2 * pairs :] = 0
        directions[name] = direction.astype(case.tensors[name].dtype)
    return directions


def _curvature(
    trial: Trial, case: Case, directions: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return second derivatives along the directions; raise if the implementation lacks them."""
    found = _derived_twice(trial, case, directions)
    if all(curvature is None for curvature in found):
        if leaves_torch(trial.under_test, case, trial.device, backward=True):
            why = "its gradients are computed outside torch"
            raise lacking(trial, Ability.SECOND_DERIVATIVES, why, why)
        with torch.compiler.set_stance("force_eager"):
            eager = _derived_twice(trial, case, directions)
        if any(curvature is not None for curvature in eager):
            why = "its gradients are compiled, and cannot be differentiated"
            raise lacking(trial, Ability.SECOND_DERIVATIVES, why, why)
    return {
        name: np.zeros(case.tensors[name].shape, np.longdouble)
        if curvature is None
        else to_extended(curvature)
        for name, curvature in zip(case.requires_grad, found, strict=True)
    }


def _derived_twice(
    trial: Trial, case: Case, directions: dict[str, np.ndarray]
) -> list[torch.Tensor | None]:
    """Return the second derivatives by torch, with None for tensors that they do not depend on."""
    given = arguments(trial.under_test, case, trial.device)
    call = constructed(trial.under_test, case, given, {})
    passed = handed(trial.under_test, case, given)
    names = case.requires_grad
    tensors = [given[name] for name in names]
    try:
        value = call(passed)
        upstream = to_torch(case.upstream(case.reduction), device=trial.device).to(value.dtype)
        upstream = upstream.expand(value.shape).clone().requires_grad_()
        reached = [passed[name] for name in names]
        own: Any = torch.autograd.grad(
            value, reached, upstream, create_graph=True, allow_unused=True
        )
        used = [i for i, slope in enumerate(own) if slope is not None and slope.requires_grad]
        if not used or any(_once(own[i]) for i in used):
            raise lacking(trial, Ability.SECOND_DERIVATIVES, _ONCE, _ONCE)
        # The conversion of tensors for the implementation has derivatives too.
        slopes: Any = torch.autograd.grad(
            [reached[i] for i in used],
            tensors,
            [own[i] for i in used],
            create_graph=True,
            allow_unused=True,
        )
        along = [
            (slope * to_torch(directions[name], device=trial.device)).sum()
            for name, slope in dict(zip(names, slopes, strict=True)).items()
            if getattr(slope, "requires_grad", False)
        ]
        found: Any = torch.autograd.grad(torch.stack(along).sum(), tensors, allow_unused=True)
    except (Deviation, Unsupported):
        raise
    except Exception as error:
        way = "the derivative of its gradients"
        raise raised(trial, Ability.SECOND_DERIVATIVES, error, way, _ONCE) from None
    return list(found)


def _once(slope: torch.Tensor) -> bool:
    """Return whether a backward in the graph is marked with `once_differentiable`.

    Without the mark a backward promises second derivatives, and those that it leaves out count
    as 0.
    """
    seen: set[Any] = set()
    nodes: list[Any] = [slope.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if differentiable_once(node):
            return True
        seen.add(node)
        nodes += [behind for behind, _ in node.next_functions]
    return False


# Slow because the first dual number imports the compiler, which takes seconds.
@clause(
    stateless,
    enough=20,
    slow=True,
    requires=(wants_gradients, differentiable_twice, works, conforms),
)
def forward_mode(trial: Trial) -> Judgement:
    """If forward mode works, its derivatives differ from those of the definition by no more than
    the error budget."""
    case = trial.case
    directions = _directions(trial.expected, case)
    tangent = _tangent(trial, directions)
    upstream = case.upstream(case.reduction)
    got = (tangent * as_extended(upstream)).sum()
    if case.dtype == "float16" and not np.isfinite(got):
        # Forward mode computes 1/p, which may overflow where backward computes 0/p.
        raise NotJudged(Excuse.OVERFLOW)
    terms = []
    for name, direction in directions.items():
        slope = trial.expected.gradient(name, case.reduction, upstream)
        if slope is None or not np.isfinite(slope.budget).all():
            raise NotJudged(Excuse.TOO_UNCERTAIN)
        along = as_extended(direction)
        ends = slope.low * along, slope.high * along
        exact, budget = slope.exact * along, slope.budget * np.abs(along)
        terms.append((exact, np.minimum(*ends), np.maximum(*ends), budget, np.abs(exact)))
    exact, low, high, budget, size = (
        np.asarray(sum(part.sum() for part in parts)) for parts in zip(*terms, strict=True)
    )
    # Each tangent is rounded once more, and is a sum over all terms.
    dtype = precision(case.dtype)
    budget = budget + SLACK * (dtype.unit * size + dtype.smallest)
    want = Bounded(exact, budget, low, high, case.dtype)
    return trial.agree(np.asarray(got), want, "the derivative of forward mode", of=None)


def _tangent(trial: Trial, directions: dict[str, np.ndarray]) -> np.ndarray:
    """Return the derivative along the directions; raise if there is no forward mode."""
    # Torch makes no dual tensor whose elements share memory.
    layouts = {name: x for name, x in trial.case.layouts.items() if x != "expanded"}
    case = trial.case.with_(requires_grad=(), layouts=layouts)
    inputs = arguments(trial.under_test, case, trial.device)
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        for name, direction in directions.items():
            along = to_torch(direction, device=trial.device)
            inputs[name] = forward_ad.make_dual(inputs[name], along)  # type: ignore[no-untyped-call]
        try:
            value = invoke(trial.under_test, case, inputs)
        except Exception as error:
            lack = "it has no forward mode"
            raise raised(trial, Ability.FORWARD_MODE, error, "forward mode", lack) from None
        tangent = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
    if tangent is not None:
        return to_extended(tangent)
    if differentiable(trial.outcome.value):  # a lost tangent is a derivative of 0
        return np.zeros(tuple(value.shape), Extended)
    why = "its result has no tangent in forward mode"
    raise lacking(trial, Ability.FORWARD_MODE, why, why)
