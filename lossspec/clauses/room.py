"""Whether a call with many rows fits into memory, judged by calls with few rows."""

from __future__ import annotations

import math

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
    if count <= PROBED_ROWS:
        return
    half, whole = _made_by(trial, axis, PROBED_ROWS // 2), _made_by(trial, axis, PROBED_ROWS)
    if not half or not whole:
        return  # torch does not show the memory of another library
    growth = max(1.0, math.log2(whole / half))
    expected = whole * (count / PROBED_ROWS) ** growth
    if expected > limit:
        raise Unsupported(f"a call with {count} rows takes about {expected / 2**30:.1f} GiB")


def _made_by(trial: Trial, axis: str, count: int) -> int | None:
    """Return the bytes of all tensors that a call makes whose rows repeat those of the trial."""
    rows = np.arange(count) % trial.case.axis_sizes(trial.loss)[axis]
    case = part_along(trial.loss, trial.case, axis, rows).with_(layouts={})
    return made(lambda: perform(trial.under_test, case, trial.device))
