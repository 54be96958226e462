"""Hypothesis strategies for loss inputs: calls with their right answers, cases, tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from lossspec.cases.case import Case
from lossspec.cases.strategies import cases as _cases
from lossspec.cases.values import STYLES, cast_values, dense_values
from lossspec.dtypes import REAL_DTYPES, dtype_name
from lossspec.errors import ArgumentError, ArgumentTypeError, UnknownName
from lossspec.execution.devices import given_devices
from lossspec.execution.tensors import to_torch
from lossspec.expectation.answer import spec_of
from lossspec.expectation.drawn_call import DrawnCall
from lossspec.safe_text import one_line
from lossspec.spec.loss import Loss
from lossspec.spec.roles import ClassIndex, Distribution, Length, Role

__all__ = ["DrawnCall", "calls", "cases", "tensors"]

Dtypes = Sequence[str | torch.dtype] | str | torch.dtype | None

#: Numbers of a drawn call. Computing what is expected of so many takes a tenth of a second at the
#: most, and Hypothesis allows an example 200 ms.
NUMBERS = 512
#: Numbers of a drawn tensor that are made simpler one by one.
_ONE_BY_ONE = 32


def cases(loss: str | Loss, dtypes: Dtypes = None) -> st.SearchStrategy[Case]:
    """Return a strategy for every valid call that a spec allows, as data.

    Args:
        loss: The name of a function or class, or a `Loss`.
        dtypes: One or several of the spec's dtypes; all of them when left out.

    Raises:
        UnknownName: There is no such loss, or it has no such dtype.
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
    """Return a strategy for calls with torch tensors, and the right answer beside them.

    Class indices have a documented dtype. `cases` also draws uint8, which torch refuses at times.

    Args:
        loss: The name of a function or class, or a `Loss`.
        dtypes: One or several of the spec's dtypes; all of them when left out.
        device: Where the tensors are.
        numbers: The most numbers that the tensors of a call hold together. Larger calls, up to
            about 60,000, take seconds: raise it together with `settings(deadline=None)`.

    Raises:
        UnknownName, DeviceError: There is no such loss, dtype or device.

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
    """The case with class indices in a documented dtype, in place of one that a call may refuse."""
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
            raise ArgumentError(f"there is no class for a tensor of shape {list(dims)}")
        seed = draw(st.integers(0, 2**32 - 1))
        numbers = rng(seed).integers(0, max(last, 0) + 1, dims)
        return to_torch(_simpler(draw, numbers, 0).astype(dtype))
    if isinstance(role, Distribution) and not dims:
        raise ArgumentError("a Distribution has an axis of classes, got the shape ()")
    style = draw(st.sampled_from(STYLES[role.style]))
    seed = draw(st.integers(0, 2**32 - 1))
    along = _class_axis(axis, len(dims))
    dense = dense_values(rng(seed), role.style, style, dims, along)
    if not isinstance(role, Distribution):
        dense = _simpler(draw, dense, 1.0 if role.style in ("positive", "sign") else 0.0)
    return to_torch(cast_values(dense, role, dtype))


def tensors(
    role: Role,
    shape: Any,
    dtype: str | torch.dtype | None = None,
    *,
    axis: int | None = None,
    classes: int | None = None,
) -> st.SearchStrategy[torch.Tensor]:
    """Return a strategy for tensors with the values that the specs draw for a role.

    They come in several styles: a grid, a normal distribution, tiny or huge numbers, a common
    offset, saturated scores. They shrink towards the simplest style, and a small one number by
    number towards 0 (1 where 0 lies outside the domain).

    Args:
        role: Such as `lossspec.Logit()`, `lossspec.Probability()` or `lossspec.ClassIndex()`.
        shape: A tuple of sizes, one size, or a strategy for either.
        dtype: float32 when left out, or the first dtype of an integer role.
        axis: The axis along which numbers are those of classes, such as the one along which a
            `Distribution` sums to 1. The second one when left out, as in torch.
        classes: The number of classes of a `ClassIndex`, or the greatest `Length`.

    Raises:
        ArgumentError, ArgumentTypeError, UnknownName: An argument is none of these.

    >>> @given(tensors(lossspec.Logit(), (4, 10), "bfloat16"))
    ... def test_scores(x): ...
    """
    if isinstance(role, type) and issubclass(role, Role):
        raise ArgumentTypeError(f"role is {role.__name__}; pass {role.__name__}()")
    if not isinstance(role, Role):
        raise ArgumentTypeError(
            f"role is one of lossspec, such as lossspec.Logit(), got {one_line(repr(role))}"
        )
    whole, known = False, REAL_DTYPES
    if isinstance(role, ClassIndex | Length):
        whole, known = True, (*role.dtypes, *getattr(role, "tolerated", ()))
    name = known[0] if dtype is None else str(dtype).removeprefix("torch.")
    if name not in known:
        raise UnknownName(f"dtype of a {type(role).__name__}", name, known)
    if whole and (not isinstance(classes, int) or classes < 0):
        raise ArgumentError(
            f"a {type(role).__name__} needs classes, a whole number, got {classes!r}"
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
        raise ArgumentError(f"axis takes {-ndim} to {ndim - 1} with {ndim} axes, got {axis}")
    return axis % ndim


def _simpler(draw: st.DrawFn, dense: np.ndarray, simplest: float) -> np.ndarray:
    """Some numbers replaced by the simplest one, each by a choice that shrinks towards it."""
    if dense.size > _ONE_BY_ONE:
        return dense
    kept = [draw(_KEPT) > 0 for _ in range(dense.size)]
    return np.where(np.reshape(kept, dense.shape), dense, simplest).astype(dense.dtype)


#: 0 takes the simplest number.
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
