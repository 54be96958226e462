"""Baselines: each loss as the textbook composition of basic torch operations.

The timing suite compares implementations with them, and the tests judge them as right
implementations. Their arguments are those of the torch counterpart, but they do not check them: an
invalid call returns any result or raises any error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lossspec.baselines import classes, elementwise, sequences, vectors


def textbook(loss: str) -> Callable[..., Any] | None:
    """Return the textbook composition of a loss, with the signature of torch's; None without one.

    Args:
        loss: The name of the loss.
    """
    for module in (elementwise, vectors, classes, sequences):
        if loss in module.__all__:
            composition: Callable[..., Any] = getattr(module, loss)
            return composition
    return None
