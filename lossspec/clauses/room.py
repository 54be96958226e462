"""Whether a call with many rows fits into memory, judged by calls with few rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lossspec.cases.axes import part_along
from lossspec.clauses.trial import Trial, Unsupported
from lossspec.execution.memory import made
from lossspec.execution.outcome import perform
from lossspec.thresholds import MANY_ROWS_BYTES, PROBED_ROWS


def require_room(trial: Trial, axis: str, count: int, limit: int = MANY_ROWS_BYTES) -> None:
    """Check that calls with many rows need little memory, which a loss of all pairs exceeds.

    Args:
        trial: The trial whose rows are repeated.
        axis: The axis of the rows.
        count: The number of rows of the longest call.
        limit: The most bytes of all tensors that the call makes.

    Raises:
        Unsupported: The call would take more.
    """
    require_memory(lambda rows: _made_by(trial, axis, rows), PROBED_ROWS, count, "rows", limit)


def require_memory(
    weigh: Callable[[int], int | None],
    probed: int,
    count: int,
    what: str,
    limit: int = MANY_ROWS_BYTES,
) -> None:
    """Check that a long call needs little memory, by a call of a given length and of half of it.

    Args:
        weigh: A function that returns the bytes that a call of a length makes; None if unknown.
        probed: The length of the call that is weighed.
        count: The length of the longest call.
        what: The word for what is counted, for the report.
        limit: The most bytes of all tensors that the longest call makes.

    Raises:
        Unsupported: The longest call would take more.
    """
    if count <= probed:
        return
    half, whole = weigh(probed // 2), weigh(probed)
    if not half or not whole:
        return  # torch does not show the memory of another library
    growth = max(1.0, math.log2(whole / half))
    expected = whole * (count / probed) ** growth
    if expected > limit:
        raise Unsupported(f"a call with {count} {what} takes about {expected / 2**30:.1f} GiB")


def _made_by(trial: Trial, axis: str, count: int) -> int | None:
    """Return the bytes of all tensors that a call makes whose rows repeat those of the trial."""
    rows = np.arange(count) % trial.case.axis_sizes(trial.loss)[axis]
    case = part_along(trial.loss, trial.case, axis, rows).with_(layouts={})
    return made(lambda: perform(trial.under_test, case, trial.device))
