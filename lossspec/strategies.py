"""Hypothesis strategies for cases, for calls with their right answers, and for tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from lossspec.cases.case import Case
from lossspec.cases.strategies import cases as _cases
from lossspec.cases.values import STYLES, cast_values, dense_values, integer_values
from lossspec.dtypes import REAL_DTYPES, dtype_name
from lossspec.errors import ArgumentError, ArgumentTypeError, UnknownName
from lossspec.execution.devices import given_devices
from lossspec.execution.tensors import to_torch
from lossspec.expectation.answer import spec_of
from lossspec.expectation.drawn_call import DrawnCall
from lossspec.safe_text import one_line
from lossspec.spec.constrained import SIDES_OF_A_BOX, Box, Constrained, Label, Mask, Rank
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex, Distribution, Length, Role

__all__ = ["DrawnCall", "calls", "cases", "tensors"]

Dtypes = Sequence[str | torch.dtype] | str | torch.dtype | None

#: The most numbers in the tensors of a drawn call. Their right answer takes at most 100 ms to
#: compute, and Hypothesis allows 200 ms for an example.
NUMBERS = 512
#: The largest tensor whose numbers are shrunk one by one.
_ONE_BY_ONE = 32


def cases(loss: str | Loss, dtypes: Dtypes = None) -> st.SearchStrategy[Case]:
    """Return a strategy for the valid calls of a loss, as cases without torch tensors.

    Args:
        loss: The name of a function or class, or a `Loss`.
        dtypes: One or several of the spec's dtypes; all of them by default.

    Raises:
        UnknownName: No such loss exists, or its spec has no such dtype.
    """
    spec = spec_of(loss)
    return _cases(spec, _dtypes(spec, dtypes))


def calls(
    loss: str | Loss,
    dtypes: Dtypes = None,
    device: str | torch.device = "cpu",
    *,
    numbers: int = NUMBERS,
) -> st.SearchStrategy[DrawnCall]:
    """Return a strategy for calls with torch tensors and with the right answer.

    Class indices have a documented dtype. `cases` also draws uint8, which torch sometimes refuses.

    Args:
        loss: The name of a function or class, or a `Loss`.
        dtypes: One or several of the spec's dtypes; all of them by default.
        device: The torch device of the tensors.
        numbers: The largest number of elements in all tensors of a call together. If you raise
            it, also set `settings(deadline=None)`: the largest calls have about 60,000 elements
            and take seconds.

    Raises:
        ArgumentError: `numbers` is less than 1, or `device` stands for several devices.
        DeviceError: This machine has no such device.
        UnknownName: No such loss exists, or its spec has no such dtype.

    Example:
        >>> @given(calls("cross_entropy", dtypes=["float32", "bfloat16"]))
        ... def test_mine(call):
        ...     result = mine(*call.args, **call.kwargs)
        ...     assert call.expected.agrees(result, gradients=call.backward(result))
    """
    spec = spec_of(loss)
    if numbers < 1:
        raise ArgumentError(f"numbers takes a whole number of 1 or more, got {numbers!r}")
    (place, *others) = given_devices(device)
    if others:
        raise ArgumentError(f"device takes one device, got {device!r}")
    small = cases(spec, dtypes).filter(lambda case: _numbers(case) <= numbers)
    return small.map(lambda case: DrawnCall(spec, _documented(spec, case), place))


def _documented(loss: Loss, case: Case) -> Case:
    """Return the case with each class index in a documented dtype, which no call may refuse."""
    roles, documented = loss.form(case.form).tensors, dict(case.tensors)
    for name, role in roles.items():
        if isinstance(role, ClassIndex) and dtype_name(documented[name]) not in role.dtypes:
            documented[name] = documented[name].astype(role.dtypes[0])
    return case.with_(tensors=documented)


def _numbers(case: Case) -> int:
    return sum(array.size for array in case.tensors.values())


@st.composite
def _tensors(
    draw: st.DrawFn, role: Role, shape: Any, dtype: str, axis: int | None, classes: int | None
) -> torch.Tensor:
    dims = _dims(draw(shape) if isinstance(shape, st.SearchStrategy) else shape)
    rng = np.random.default_rng
    if isinstance(role, ClassIndex | Length):
        assert classes is not None
        last = classes if isinstance(role, Length) else classes - 1
        if int(np.prod(dims)) and last < 0:
            raise ArgumentError(
                f"classes takes 1 or more for class indices of shape {list(dims)}, got {classes}"
            )
        seed = draw(st.integers(0, 2**32 - 1))
        numbers = rng(seed).integers(0, max(last, 0) + 1, dims)
        return to_torch(_simpler(draw, numbers, 0).astype(dtype))
    if isinstance(role, Distribution) and not dims:
        raise ArgumentError("a Distribution needs at least one axis, got the shape ()")
    style = draw(st.sampled_from(STYLES[role.style]))
    seed = draw(st.integers(0, 2**32 - 1))
    if isinstance(role, Constrained):
        return to_torch(_constrained(role, style, rng(seed), dims, axis, dtype))
    along = _class_axis(axis, len(dims))
    dense = dense_values(rng(seed), role.style, style, dims, along)
    if not isinstance(role, Distribution):
        dense = _simpler(draw, dense, 1.0 if role.style in ("positive", "sign") else 0.0)
    return to_torch(cast_values(dense, role, dtype))


def _constrained(
    role: Constrained,
    style: str,
    rng: np.random.Generator,
    dims: tuple[int, ...],
    axis: int | None,
    dtype: str,
) -> np.ndarray:
    """Return the numbers of a role that restricts them together, along the last axis by default."""
    along = None if role.elementwise or not dims else _class_axis(axis, len(dims))
    if along is not None and axis is None:
        along = len(dims) - 1
    if isinstance(role, Box) and (along is None or dims[along] != SIDES_OF_A_BOX):
        raise ArgumentError(f"shape takes an axis of {SIDES_OF_A_BOX} for a Box, got {dims!r}")
    if isinstance(role, Mask | Label | Rank):
        return role.restored(integer_values(rng, role, style, dims), along).astype(dtype)
    return role.restored(
        cast_values(dense_values(rng, role.style, style, dims, along), role, dtype), along
    )


def tensors(
    role: Role,
    shape: Any,
    dtype: str | torch.dtype | None = None,
    *,
    axis: int | None = None,
    classes: int | None = None,
) -> st.SearchStrategy[torch.Tensor]:
    """Return a strategy for tensors with the values that the specs draw for a role.

    The values have several styles: a grid, a normal distribution, tiny or huge numbers, a common
    offset, saturated scores. They shrink towards the simplest style. The numbers of a small tensor
    also shrink one by one towards 0, or towards 1 if 0 lies outside the domain.

    Args:
        role: A role, such as `lossspec.Logit()` or `lossspec.ClassIndex()`.
        shape: A tuple of sizes, one size, or a strategy for either.
        dtype: The dtype; by default float32, or the first dtype of an integer role.
        axis: The axis of the classes, along which for example a `Distribution` sums to 1; by
            default the second axis, as in torch. For a role such as `UnitVector`, the axis along
            which it restricts the numbers; by default the last axis.
        classes: The number of classes of a `ClassIndex`, or the greatest value of a `Length`.

    Raises:
        ArgumentError: A shape, an axis or a number of classes is not allowed.
        ArgumentTypeError: `role` is not a role.
        UnknownName: The role has no such dtype.

    Example:
        >>> @given(tensors(lossspec.Logit(), (4, 10), "bfloat16"))
        ... def test_scores(x): ...
    """
    if isinstance(role, type) and issubclass(role, Role):
        raise ArgumentTypeError(
            f"role takes an instance, got the class {role.__name__}; pass {role.__name__}()"
        )
    if not isinstance(role, Role):
        raise ArgumentTypeError(
            f"role takes a role such as lossspec.Logit(), got {one_line(repr(role))}"
        )
    whole, known = False, REAL_DTYPES
    if role.integer:
        whole = isinstance(role, ClassIndex | Length)
        known = (*role.dtypes, *getattr(role, "tolerated", ()))
    name = known[0] if dtype is None else str(dtype).removeprefix("torch.")
    if name not in known:
        raise UnknownName(f"dtype of a {type(role).__name__}", name, known)
    if whole and (not isinstance(classes, int) or classes < 0):
        raise ArgumentError(
            f"classes takes a whole number of 0 or more for a {type(role).__name__}, "
            f"got {classes!r}"
        )
    if not isinstance(shape, st.SearchStrategy):
        shape = _dims(shape)
    return _tensors(role, shape, name, axis, classes)


def _dims(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ArgumentError(f"shape takes whole numbers of 0 or more, got {shape!r}")
    return sizes


def _class_axis(axis: int | None, ndim: int) -> int | None:
    if not ndim:
        return None
    if axis is None:
        return min(1, ndim - 1)
    if not -ndim <= axis < ndim:
        raise ArgumentError(f"axis takes {-ndim} to {ndim - 1} for {ndim} axes, got {axis}")
    return axis % ndim


def _simpler(draw: st.DrawFn, dense: np.ndarray, simplest: float) -> np.ndarray:
    """Replace some numbers by the simplest one, each by a choice that shrinks towards it."""
    if dense.size > _ONE_BY_ONE:
        return dense
    kept = [draw(_KEPT) > 0 for _ in range(dense.size)]
    return np.where(np.reshape(kept, dense.shape), dense, simplest).astype(dense.dtype)


#: A draw of 0 replaces the number by the simplest one.
_KEPT = st.integers(0, 15)


def _dtypes(loss: Loss, given: Dtypes) -> tuple[str, ...] | None:
    if given is None:
        return None
    several = (given,) if isinstance(given, str | torch.dtype) else tuple(given)
    names = tuple(str(name).removeprefix("torch.") for name in several)
    for name in names:
        if name not in loss.dtypes:
            raise UnknownName(f"dtype of {loss.name}", name, loss.dtypes)
    return names or None
