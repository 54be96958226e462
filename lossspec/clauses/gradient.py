"""Clauses on gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lossspec.cases.case import Case
from lossspec.clauses import Judgement, clause, stateless
from lossspec.clauses.trial import Deviation, Trial, Unsupported
from lossspec.dtypes import as_extended, precision
from lossspec.execution.call import arguments, constructed, handed, invoke
from lossspec.execution.messages import differentiable_once
from lossspec.execution.outcome import differentiable
from lossspec.execution.support import leaves_torch
from lossspec.execution.tensors import to_extended, to_torch
from lossspec.oracle.bounds import Bounded
from lossspec.oracle.solver import solve_second
from lossspec.safe_text import foreign_error
from lossspec.thresholds import SECOND_ORDER_LARGEST, SECOND_ORDER_SMALLEST, SLACK


@clause(empty=True)  # a result without a graph ends a training loop
def gradient(trial: Trial) -> Judgement:
    """For any cotangent, each gradient is the definition's, within what rounding explains."""
    case, outcome = trial.case, trial.outcome
    if outcome.error is not None or outcome.oversized or not case.requires_grad:
        return None
    informative = False
    missing = {}
    for name, want in trial.expected.gradients().items():
        got = outcome.gradients[name]
        if got is None:
            missing[name] = list(want.exact.shape)
            continue
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


@clause(lambda loss, surface: loss.ignores)
def ignored_gradient(trial: Trial) -> Judgement:
    """An ignored element gets a gradient of exactly 0, whatever its row holds."""
    counted = trial.expected.counted
    first = next(iter(trial.form.tensors))
    gradient = trial.outcome.gradients.get(first)
    if counted.all() or gradient is None:
        return None
    if trial.case.reduction == "mean" and not counted.any():
        return None  # 0/0 has no slope
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


@clause(stateless, enough=20, slow=True)
def second_order(trial: Trial) -> Judgement:
    """The derivative of the gradient, where the implementation has one, is the definition's."""
    case = trial.case.with_(requires_grad=trial.differentiable)
    # Kernels carry epsilons of 1e-12 that no documentation mentions, and only float64 sees.
    if case.dtype != "float32" or not trial.worked or trial.limited:
        return None
    roles = trial.loss.roles(trial.form)
    if not case.requires_grad or any(roles[name].scalar for name in case.requires_grad):
        return None
    sizes = [np.abs(case.tensors[name]) for name in case.requires_grad]
    if any(
        (size > SECOND_ORDER_LARGEST).any() or ((size > 0) & (size < SECOND_ORDER_SMALLEST)).any()
        for size in sizes
    ):
        return None
    directions = _directions(trial, case)
    got = _curvature(trial, case, directions)
    wants = solve_second(trial.expected, trial.loss, case.reduction, directions)
    if wants is None:
        return None
    informative = False
    for name, want in wants.items():
        want = trial.expected.counted_only(name, want)
        informative |= trial.agree(
            got[name],
            want,
            f"the second derivative by {name}",
            of=f"curvatures[{name!r}]",
            case=case,
            gradient_of=name,
        )
    return informative


def _directions(trial: Trial, case: Case) -> dict[str, np.ndarray]:
    """A direction for each tensor that requires a gradient, the same for the same case.

    What sums to 1 moves so that it still does.
    """
    rng = np.random.default_rng(len(case.tensors))
    directions = {}
    for name in case.requires_grad:
        direction = rng.choice([-1.0, 0.5, 1.0, 2.0], case.tensors[name].shape)
        if name in trial.expected.simplex:
            along = np.moveaxis(direction, trial.expected.simplex[name], -1)
            pairs = along.shape[-1] // 2
            along[..., pairs : 2 * pairs] = -along[..., :pairs]
            along[..., 2 * pairs :] = 0
        directions[name] = direction.astype(case.tensors[name].dtype)
    return directions


def _curvature(
    trial: Trial, case: Case, directions: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Second derivatives along the directions; Unsupported where there is no way to them."""
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
            raise Unsupported("its gradients cannot be differentiated")
        # What tensors become on their way to the implementation has derivatives of its own.
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
        outside = all(curvature is None for curvature in found)
        if outside and leaves_torch(trial.under_test, case, trial.device):
            raise Unsupported("its gradients come from outside torch")
    except Unsupported:
        raise
    except Exception as error:
        raise Unsupported(
            f"its gradients cannot be differentiated ({foreign_error(error)})"
        ) from None
    return {
        name: np.zeros(case.tensors[name].shape, np.longdouble)
        if curvature is None
        else to_extended(curvature)
        for name, curvature in zip(names, found, strict=True)
    }


def _once(slope: torch.Tensor) -> bool:
    """Whether a backward in its graph is marked as one that can be differentiated only once.

    One that is not promises a second derivative: what it takes for constant counts as such.
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
@clause(stateless, enough=20, slow=True)
def forward_mode(trial: Trial) -> Judgement:
    """Forward-mode derivatives, where the implementation has them, are the definition's."""
    case = trial.case
    if not case.requires_grad or not trial.worked or trial.limited or not trial.conforms:
        return None
    directions = _directions(trial, case)
    tangent = _tangent(trial, directions)
    upstream = case.upstream(case.reduction)
    got = (tangent * as_extended(upstream)).sum()
    if case.dtype == "float16" and not np.isfinite(got):
        return None  # on the way forward there is 1/p where on the way back there is 0/p
    terms = []
    for name, direction in directions.items():
        slope = trial.expected.gradient(name, case.reduction, upstream)
        if slope is None or not np.isfinite(slope.budget).all():
            return None
        along = as_extended(direction)
        ends = slope.low * along, slope.high * along
        exact, budget = slope.exact * along, slope.budget * np.abs(along)
        terms.append((exact, np.minimum(*ends), np.maximum(*ends), budget, np.abs(exact)))
    exact, low, high, budget, size = (
        np.asarray(sum(part.sum() for part in parts)) for parts in zip(*terms, strict=True)
    )
    # The tangent of each result is rounded once more, and added up from as many terms.
    dtype = precision(case.dtype)
    budget = budget + SLACK * (dtype.unit * size + dtype.smallest)
    want = Bounded(exact, budget, low, high, case.dtype)
    return trial.agree(np.asarray(got), want, "the derivative of forward mode", of=None)


def _tangent(trial: Trial, directions: dict[str, np.ndarray]) -> np.ndarray:
    """The result's derivative along the directions; Unsupported where there is no way to it."""
    case = trial.case.with_(requires_grad=())
    inputs = arguments(trial.under_test, case, trial.device)
    try:
        forward_ad = torch.autograd.forward_ad
        with forward_ad.dual_level():
            for name, direction in directions.items():
                along = to_torch(direction, device=trial.device)
                inputs[name] = forward_ad.make_dual(inputs[name], along)  # type: ignore[no-untyped-call]
            value = invoke(trial.under_test, case, inputs)
            tangent = forward_ad.unpack_dual(value).tangent  # type: ignore[no-untyped-call]
    except Exception as error:
        raise Unsupported(f"it has no forward mode ({foreign_error(error)})") from None
    if tangent is None:
        raise Unsupported("its result has no tangent in forward mode")
    return to_extended(tangent)
