"""Floating dtypes: names, unit roundoff, and conversion to extended precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

Extended = np.longdouble


@dataclass(frozen=True)
class Precision:
    """The range and rounding of a floating dtype.

    Attributes:
        name: The name, as in torch.
        numpy: The scalar type of numpy or ml_dtypes.
        unit: The unit roundoff.
        smallest: The smallest subnormal number.
        largest: The largest finite number.
        negligible: The number below which kernels may round to 0: the smallest normal number,
            except in float16, where it is the smallest subnormal one.
        largest_sum: The largest partial sum: float32's largest number for float16, which is summed
            in float32.
    """

    name: str
    numpy: Any
    unit: float
    smallest: float
    largest: float
    negligible: float
    largest_sum: float


@cache
def precision(dtype: str) -> Precision:
    """Return the range and rounding of a floating dtype, by torch's name for it."""
    scalar = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype).type
    info = ml_dtypes.finfo(scalar)  # type: ignore[no-untyped-call]  # it has no annotations
    halves = dtype == "float16"
    return Precision(
        dtype,
        scalar,
        float(info.eps) / 2,
        float(info.smallest_subnormal),
        float(info.max),
        float(info.smallest_subnormal if halves else info.smallest_normal),
        float(np.finfo(np.float32).max if halves else info.max),
    )


def as_extended(array: np.ndarray) -> np.ndarray:
    """Convert an array to longdouble, which is exact."""
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    return array.astype(Extended)


REAL_DTYPES = ("float32", "float64", "float16", "bfloat16")


def dtype_name(array: np.ndarray) -> str:
    """Return torch's name for the dtype of an array."""
    return _name_of(array.dtype)


@cache
def _name_of(dtype: Any) -> str:
    return str(dtype)  # cached, since str of a numpy dtype is slow
