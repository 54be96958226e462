"""The oracle as an implementation: exact results, rounded once, which conform to every clause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from lossspec.cases.axes import axes_of
from lossspec.cases.binding import fit
from lossspec.cases.case import Case
from lossspec.execution.implementation import Implementation
from lossspec.execution.tensors import dtype_of, from_extended, to_numpy
from lossspec.oracle.expected import Expected
from lossspec.oracle.solver import solve
from lossspec.spec.catalogue import catalogue
from lossspec.spec.constrained import Constrained
from lossspec.spec.loss import Form, Loss
from lossspec.spec.roles import ClassIndex, Length


def bind(
    loss: Loss, tensors: Mapping[str, Any], parameters: Mapping[str, Any], reduction: str
) -> Case:
    """Return the case of a call.

    Args:
        loss: The spec of the loss.
        tensors: The tensors by name, including the optional ones.
        parameters: The value of every parameter.
        reduction: The reduction.

    Raises:
        TypeError: An argument is not a tensor.
        ValueError: The shapes or values contradict the spec.
        IndexError: A class index is out of range.
    """
    if reduction not in loss.reductions:
        raise ValueError(
            f"reduction must be one of {', '.join(loss.reductions)}, got {reduction!r}"
        )
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor | float | int | tuple):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    arrays = {
        name: to_numpy(tensor) if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
        for name, tensor in tensors.items()
    }
    fitting = fit(loss, arrays, parameters)
    if fitting is None:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        contracts = "; ".join(text for form in loss.forms for text in form.shapes)
        raise ValueError(f"{loss.name} takes {contracts}, got {shapes}")
    form, shape = fitting
    case = Case(
        loss=loss.name,
        form=form.name,
        contract=shape.text,
        spread=shape.spread,
        dtype=dtype_of(next(iter(tensors.values()))),
        tensors=arrays,
        parameters={name: parameters[name] for name in loss.parameters_of(form)},
        reduction=reduction,
        cotangent=np.zeros(()),
    )
    _check(loss, form, case)
    return case


def _check(loss: Loss, form: Form, case: Case) -> None:
    sizes = case.axis_sizes(loss)
    refusal = case.broken_rule(loss)
    if refusal is not None:
        raise next(iter(refusal.types), ValueError)(refusal.says)
    for name, value in case.parameters.items():
        if value in loss.parameters[name].refused:
            raise ValueError(f"{name}={value!r} is out of range")
    for name, role in form.tensors.items():
        array = case.tensors[name]
        if isinstance(role, Constrained):
            axes = axes_of(loss, form, case.shape, name, array.ndim)
            if role.checked and not role.holds(array, role.axis(axes)).all():
                raise ValueError(f"{name} holds numbers that its role does not allow")
        elif isinstance(role, Length):
            if not ((array >= 0) & (array <= sizes[role.of])).all():
                raise ValueError(f"{name} holds a length outside [0, {sizes[role.of]}]")
        elif isinstance(role, ClassIndex):
            if role.checked and not role.allows(array, sizes[role.classes], case.parameters).all():
                raise IndexError(f"{name} holds an index outside [0, {sizes[role.classes]})")
        elif loss.refusals:
            numbers = array.astype(np.float64)
            if ((numbers < role.low) | (numbers > role.high)).any():
                raise ValueError(f"{name} must lie in [{role.low}, {role.high}]")
    if any(isinstance(role, Length) for role in form.tensors.values()):
        settled = case.settled(loss)
        if settled.parameters != case.parameters or not all(
            np.array_equal(array, settled.tensors[name]) for name, array in case.tensors.items()
        ):
            raise ValueError(f"the tensors and parameters of {loss.name} do not fit each other")


class _Exact(torch.autograd.Function):
    """The exact result, rounded once; its backward is the exact gradient, rounded once."""

    @staticmethod
    def forward(ctx: Any, expected: Expected, names: tuple[str, ...], *tensors: Any) -> Any:
        ctx.expected, ctx.names, ctx.tensors = expected, names, tensors
        value = expected.value(expected.case.reduction).exact
        return from_extended(np.asarray(value), tensors[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        gradients: list[Any] = [None, None]
        cotangent = to_numpy(upstream)
        for name, tensor in zip(ctx.names, ctx.tensors, strict=True):
            gradient = None
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                exact = ctx.expected.gradient(name, ctx.expected.case.reduction, cotangent)
                gradient = torch.zeros_like(tensor)
                if exact is not None:
                    gradient = from_extended(exact.exact, tensor)
            gradients.append(gradient)
        return tuple(gradients)


def function(loss: Loss) -> Callable[..., Any]:
    """Return a function with torch's signature that rounds the exact result of a loss."""
    names = {len(form.tensors): list(form.tensors) for form in loss.forms}

    def call(*tensors: Any, reduction: str = loss.reductions[0], **keywords: Any) -> Any:
        if len(tensors) not in names:
            raise TypeError(f"{loss.name} takes {' or '.join(map(str, names))} tensors")
        unknown = keywords.keys() - loss.options.keys() - loss.parameters.keys()
        if unknown:
            raise TypeError(f"{loss.name} has no argument {min(unknown)!r}")
        given = dict(zip(names[len(tensors)], tensors, strict=True))
        given |= {n: keywords[n] for n in loss.options if keywords.get(n) is not None}
        parameters = {
            name: keywords.get(name, parameter.default)
            for name, parameter in loss.parameters.items()
        }
        case = bind(loss, given, parameters, reduction)
        return _Exact.apply(  # type: ignore[no-untyped-call]  # torch has no annotations here
            solve(loss, case), tuple(given), *given.values()
        )

    return call


oracle = Implementation(
    "oracle", functions={loss.name: function(loss) for loss in catalogue().values()}
)
