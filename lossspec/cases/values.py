"""Dense values of each role, in several styles."""

from __future__ import annotations

import numpy as np

from lossspec.dtypes import precision
from lossspec.errors import SpecError
from lossspec.spec.constrained import Label, Mask, Rank
from lossspec.spec.roles import Factor, Role

#: The styles of dense values for each role; shrinking ends at the first one.
STYLES: dict[str, tuple[str, ...]] = {
    "real": ("grid", "normal", "wide", "offset", "tiny", "rows", "logarithmic", "huge"),
    "factor": ("grid", "normal", "wide", "offset", "tiny", "rows", "logarithmic"),
    "logit": ("grid", "normal", "wide", "offset", "saturated", "rows", "tiny"),
    "log_probability": ("grid", "normal", "wide", "softmax", "tiny"),
    "probability": ("grid", "uniform", "edges", "binary"),
    "distribution": ("one_hot", "softmax", "sparse", "smooth"),
    "positive": ("grid", "uniform", "logarithmic", "tiny"),
    "non_negative": ("grid", "uniform", "logarithmic", "tiny"),
    "count": ("small", "large", "fractional"),
    "sign": ("sign",),
    "binary": ("binary",),
    "weight": ("grid", "ones", "uniform", "zeros"),
    "temperature": ("grid", "uniform", "small"),
    "mask": ("all", "some", "none", "leading", "some"),
    "label": ("few", "any", "same"),
    "rank": ("in order", "any", "reversed"),
    "unit_vector": ("axes", "normal", "sparse", "near"),
    "box": ("grid", "uniform", "offset", "flat"),
    "sorted": ("grid", "normal", "wide", "tiny"),
}


def dense_values(
    rng: np.random.Generator, role: str, style: str, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    """Return float64 values of a role in a style.

    Args:
        rng: The generator of the values.
        role: The style of the role, a key of `STYLES`.
        style: The style of the values, one of `STYLES[role]`.
        shape: The shape of the array.
        axis: The index of the class axis; None if there is none.

    Raises:
        SpecError: If `role` is not a key of `STYLES`.
    """
    match role:
        case "real" | "factor" | "logit":
            return _reals(rng, style, shape)
        case "log_probability":
            if style == "softmax" and axis is not None and shape[axis]:
                x = rng.standard_normal(shape) * 3
                return np.asarray(x - np.log(np.exp(x).sum(axis, keepdims=True)))
            return -np.abs(_reals(rng, "normal" if style == "softmax" else style, shape))
        case "probability":
            return _probabilities(rng, style, shape)
        case "distribution":
            return _distributions(rng, style, shape, axis)
        case "positive":
            if style == "uniform":
                return rng.uniform(0.1, 3, shape)
            if style == "grid":
                return rng.integers(1, 9, shape) / 4
            return 10 ** rng.uniform(-6 if style == "tiny" else -3, 2, shape)
        case "non_negative":
            if style == "grid":
                return rng.integers(0, 9, shape) / 4
            if style == "tiny":
                return np.where(rng.random(shape) < 0.2, 0, 10 ** rng.uniform(-9, 0, shape))
            return dense_values(rng, "positive", style, shape, axis)
        case "count":
            if style == "fractional":  # includes numbers near 1, where Stirling's term starts
                return rng.choice([0.0, 0.25, 0.5, 1 - 2.0**-8, 1.0, 1 + 2.0**-7, 1.5, 2.5], shape)
            return rng.integers(0, 4 if style == "small" else 60, shape).astype(float)
        case "sign":
            return rng.choice([-1.0, 1.0], shape)
        case "binary":
            return rng.choice([0.0, 1.0], shape)
        case "weight":
            if style == "uniform":
                return rng.uniform(0.05, 3, shape)
            if style == "ones":
                return np.ones(shape)
            grid = [0.0, 0.0, 2.0] if style == "zeros" else [0.5, 1.0, 2.0, 3.0, 0.0]
            return rng.choice(grid, shape)
        case "temperature" | "unit_vector" | "box" | "sorted":
            return _structured(rng, role, style, shape, axis)
    raise SpecError(f"got the role style {role!r}, want one of {', '.join(STYLES)}")


def _structured(
    rng: np.random.Generator, role: str, style: str, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    """Return values that `restored` of their role brings into its structure."""
    match role:
        case "unit_vector":
            return _directions(rng, style, shape, axis)
        case "box":
            return _boxes(rng, style, shape, axis)
        case "sorted":
            return _reals(rng, style, shape)
    if style == "grid":
        return rng.choice([1.0, 0.5, 2.0, 4.0], shape)
    return np.asarray(
        10 ** (rng.uniform(-2, -1, shape) if style == "small" else rng.uniform(-1, 1, shape))
    )


def integer_values(
    rng: np.random.Generator, role: Mask | Label | Rank, style: str, shape: tuple[int, ...]
) -> np.ndarray:
    """Return the values of an integer role in a style, in its first dtype.

    Ranks are numbers whose order is that of the ranks; `Rank.restored` makes ranks of them.

    Args:
        rng: The generator of the values.
        role: The role.
        style: The style of the values, one of `STYLES[role.style]`.
        shape: The shape of the array.
    """
    if isinstance(role, Mask):
        mask = np.asarray(rng.random(shape) < {"all": 2.0, "none": -1.0}.get(style, 0.6))
        if style == "leading" and shape:
            mask[...] = False
            mask[: max(1, shape[0] // 2)] = True
        return mask
    if isinstance(role, Rank):
        order = np.arange(int(np.prod(shape)))
        if style == "any":
            order = rng.permutation(order)
        return (order[::-1] if style == "reversed" else order).reshape(shape)
    low, high = int(role.low), int(role.high)
    if style == "same":
        return np.full(shape, rng.integers(low, high + 1), role.dtypes[0])
    last = min(low + 2, high) if style == "few" else high
    return np.asarray(rng.integers(low, last + 1, shape)).astype(role.dtypes[0])


def _directions(
    rng: np.random.Generator, style: str, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    """Return vectors along an axis, whose norms `UnitVector.restored` makes 1."""
    x = rng.standard_normal(shape)
    if axis is None or not x.size:
        return x
    if style == "axes":
        top = np.abs(x).max(axis, keepdims=True)
        return np.where(np.abs(x) == top, np.sign(x), 0.0)
    if style == "sparse":
        return np.where(rng.random(shape) < 0.4, 0.0, x)
    if style == "near":  # their differences cancel
        return np.asarray(np.broadcast_to(x.take([0], 0) if axis else x, shape) + 1e-2 * x)
    return x


def _boxes(
    rng: np.random.Generator, style: str, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    """Return boxes along an axis; most of them overlap."""
    sides = shape[:axis] + shape[axis + 1 :] if axis is not None else shape[:-1]
    corner, size = rng.uniform(0, 1, (2, *sides, 2))
    if style == "grid":
        corner, size = rng.integers(-4, 5, (*sides, 2)) / 2, rng.integers(1, 7, (*sides, 2)) / 2
    elif style == "offset":  # pixels
        corner, size = 300 * corner + 50, 200 * size
    elif style == "flat":
        size = np.where(rng.random(size.shape) < 0.3, 0.0, size)
    return np.moveaxis(np.concatenate([corner, corner + size], -1), -1, axis or 0)


def _reals(rng: np.random.Generator, style: str, shape: tuple[int, ...]) -> np.ndarray:
    match style:
        case "grid":
            return rng.integers(-8, 9, shape) / 4
        case "wide":
            return rng.standard_normal(shape) * rng.choice([30.0, 300.0])
        case "offset":
            return rng.standard_normal(shape) + rng.choice([50.0, -1e3, 1e4, 1e8])
        case "saturated":
            return rng.choice([-1.0, 1.0], shape) * rng.uniform(12, 120, shape)
        case "tiny":
            return rng.standard_normal(shape) * rng.choice([1e-3, 1e-8])
        case "rows":
            scale = 10 ** rng.uniform(-3, 3, (*shape[:1], *(1 for _ in shape[1:])))
            return rng.standard_normal(shape) * scale
        case "huge":  # a few of them, so that the others keep their digits
            top = rng.choice([60.0, 120.0, 120.0, 500.0])
            huge = rng.choice([-1.0, 1.0], shape) * 2 ** rng.uniform(top - 6, top, shape)
            some = np.asarray(rng.random(shape) < 0.3)
            some.flat[:1] = True
            return np.where(some, huge, rng.standard_normal(shape))
        case "logarithmic":
            return rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-6, 4, shape)
        case _:
            return rng.standard_normal(shape)


def _probabilities(rng: np.random.Generator, style: str, shape: tuple[int, ...]) -> np.ndarray:
    match style:
        case "uniform":
            return rng.uniform(0, 1, shape)
        case "edges":
            near = 2.0 ** -rng.integers(1, rng.choice([12, 40, 160]), shape).astype(float)
            return np.where(rng.random(shape) < 0.5, near, 1 - near)
        case "binary":
            return rng.integers(0, 2, shape).astype(float)
        case _:
            return rng.integers(0, 5, shape) / 4


def _distributions(
    rng: np.random.Generator, style: str, shape: tuple[int, ...], axis: int | None
) -> np.ndarray:
    axis = axis or 0
    scores = rng.standard_normal(shape)
    if shape[axis] == 0:
        return scores
    if style in ("one_hot", "smooth"):
        certain = (scores == scores.max(axis, keepdims=True)).astype(float)
        return certain if style == "one_hot" else 0.75 * certain + 0.25 / shape[axis]
    soft = np.exp(scores * 2)
    if style == "sparse":
        few = np.where(rng.random(shape) < 0.4, 0, soft)
        soft = np.where(few.sum(axis, keepdims=True) > 0, few, soft)
    return np.asarray(soft / soft.sum(axis, keepdims=True))


def cast_values(values: np.ndarray, role: Role, dtype: str) -> np.ndarray:
    """Return values in the case's dtype, made finite and moved into the role's domain."""
    info = precision(dtype)
    largest = info.largest / 8
    low, high = max(role.low, -largest), min(role.high, largest)
    with np.errstate(all="ignore"):
        if isinstance(role, Factor):
            limit = (32 * info.unit) ** (-1 / role.count)
            values = values * min(1.0, limit / max(np.abs(values).max(initial=0), limit))
        cast = np.clip(values, low, high).astype(info.numpy)
        if role.style in ("positive", "temperature"):
            cast = np.where(cast > 0, cast, info.numpy(info.smallest * 2**10)).astype(info.numpy)
    return np.asarray(cast)
