"""Clauses on gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lossspec.clauses import Judgement, clause, stateless
from lossspec.oracle import solve_second
from lossspec.outcome import ready
from lossspec.spec import ClassIndex, Loss, Surface
from lossspec.tensors import to_extended, to_torch
from lossspec.trial import Deviation, Trial


@clause()
def gradient(trial: Trial) -> Judgement:
    """For any cotangent, each gradient is the definition's, within what rounding explains."""
    case, outcome = trial.case, trial.outcome
    if outcome.error is not None or not case.requires_grad:
        return None
    told = False
    for name in case.requires_grad:
        upstream = case.upstream(case.reduction)
        want = trial.expected.gradient(name, case.reduction, upstream)
        if want is None:
            continue
        got = outcome.gradients[name]
        if got is None:
            raise Deviation(
                f"no gradient of {name}",
                "None",
                f"a gradient of shape {list(want.exact.shape)}",
                check=f"gradients[{name!r}] is not None",
            )
        # Clause `ignored-gradient` judges the rows that are ignored.
        want = trial.expected.counted_only(name, want)
        told |= trial.agree(
            to_extended(got), want, f"the gradient of {name}", of=f"gradients[{name!r}]"
        )
    return told


def _ignores(loss: Loss, surface: Surface) -> bool:
    return any(
        isinstance(role, ClassIndex) and role.ignored_by is not None
        for form in loss.forms
        for role in form.tensors.values()
    )


@clause(_ignores)
def ignored_gradient(trial: Trial) -> Judgement:
    """An ignored element gets a gradient of exactly 0, whatever its row holds."""
    counted = trial.expected.counted
    first = next(iter(trial.form.tensors))
    gradient = trial.outcome.gradients.get(first)
    if counted.all() or gradient is None:
        return None
    got = to_extended(gradient)
    wrong = trial.expected.ignored(first, got.shape) & (got != 0)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise Deviation(
            f"the gradient of an ignored row at {list(at)}",
            got[at],
            0,
            check=f"gradients[{first!r}][{', '.join(map(str, at))}] == 0",
        )
    return True


#: Numbers up to here: a formula that saturates has derivatives of derivatives that nobody promises.
MODERATE = 16.0
#: And below this an epsilon of 1e-12 shows.
TINY = 1e-8


@clause(stateless, enough=20, slow=True)
def second_order(trial: Trial) -> Judgement:
    """The derivative of the gradient, where the implementation has one, is the definition's."""
    case = trial.case
    # Kernels carry epsilons of 1e-12 that no documentation mentions, and only float64 sees.
    if case.dtype != "float32" or not case.requires_grad or not trial.worked:
        return None
    if trial.limited:
        return None
    if case.requires_grad != trial.differentiable:
        return None
    sizes = [np.abs(case.tensors[name]) for name in case.requires_grad]
    if any((size > MODERATE).any() or ((size > 0) & (size < TINY)).any() for size in sizes):
        return None
    rng = np.random.default_rng(len(case.tensors))
    directions = {
        name: rng.choice([-1.0, 0.5, 1.0, 2.0], case.tensors[name].shape).astype(
            case.tensors[name].dtype
        )
        for name in case.requires_grad
    }
    got = _curvature(trial, directions)
    if got is None:
        return None
    wants = solve_second(trial.expected, trial.loss, case.reduction, directions)
    if wants is None:
        return None
    told = False
    for name, want in wants.items():
        want = trial.expected.counted_only(name, want)
        told |= trial.agree(
            got[name], want, f"the second derivative by {name}", of=f"curvatures[{name!r}]"
        )
    return told


def _curvature(trial: Trial, directions: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """Second derivatives along the directions; None where there is no way to them."""
    case = trial.case
    call, inputs = ready(trial.subject, case, trial.device)
    names = case.requires_grad
    tensors = [inputs[name] for name in names]
    try:
        value = call()
        upstream = to_torch(case.upstream(case.reduction), device=trial.device).to(value.dtype)
        # That it requires a gradient makes a backward that cannot be differentiated say so.
        upstream = upstream.expand(value.shape).clone().requires_grad_()
        slopes = torch.autograd.grad(value, tensors, upstream, create_graph=True, allow_unused=True)
        along = [
            (slope * to_torch(directions[name], device=trial.device)).sum()
            for name, slope in dict(zip(names, slopes, strict=True)).items()
            if getattr(slope, "requires_grad", False)
        ]
        if not along:
            return None
        found: Sequence[Any] = torch.autograd.grad(
            torch.stack(along).sum(), tensors, allow_unused=True
        )
    except RuntimeError:
        return None
    if all(curvature is None for curvature in found):
        return None  # a gradient that depends on no input promises no second derivative
    return {
        name: np.zeros(case.tensors[name].shape, np.longdouble)
        if curvature is None
        else to_extended(curvature)
        for name, curvature in zip(names, found, strict=True)
    }
