"""Baselines: each loss as the textbook composition of plain torch operations.

Timing compares with them, and the tests judge them as right implementations. They check nothing:
a call that must be refused gives any result, or any error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lossspec.baselines import classes, elementwise, sequences, vectors


def textbook(loss: str) -> Callable[..., Any] | None:
    """Return the textbook composition of a loss, called as torch's function; None if none ships."""
    for module in (elementwise, vectors, classes, sequences):
        if loss in module.__all__:
            composition: Callable[..., Any] = getattr(module, loss)
            return composition
    return None
