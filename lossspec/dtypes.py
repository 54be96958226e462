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
    """A floating dtype's rounding: unit roundoff, smallest subnormal, largest finite number.

    negligible : what kernels may take for 0. It is the smallest normal number, below which an
    exponential or its reciprocal is mostly flushed; only float16 has no room for that.
    largest_sum : the largest number that a sum may reach on its way; float16 is summed in float32.
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
    """The numbers of a floating dtype by torch's name for it."""
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
    """Exactly the same numbers in longdouble."""
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    return array.astype(Extended)


REAL_DTYPES = ("float32", "float64", "float16", "bfloat16")


def dtype_name(array: np.ndarray) -> str:
    """Torch's name for the dtype of an array."""
    return _name_of(array.dtype)


@cache
def _name_of(dtype: Any) -> str:
    return str(dtype)  # numpy takes its time
