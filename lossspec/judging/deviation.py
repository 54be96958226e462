"""The deviation of a trial from a clause, and the text of an error in lossspec itself."""

from __future__ import annotations

import traceback

from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported
from lossspec.errors import SpecError
from lossspec.execution.global_state import preserved
from lossspec.execution.timeout import CallTimeout, time_limit


def deviation_of(clause: Clause, trial: Trial) -> Deviation | None:
    """Return the deviation of a trial from a clause; None if it conforms or cannot be judged."""
    try:
        return deviation_in_time(clause, trial)
    except CallTimeout:
        return None


def deviation_in_time(clause: Clause, trial: Trial) -> Deviation | None:
    """Return the same as `deviation_of`, for callers that treat a timeout in another way.

    Raises:
        CallTimeout: The clause took too long.
    """
    try:
        with time_limit(), preserved():
            if clause.unmet(trial) is None:
                clause.judge(trial)
    except Deviation as deviation:
        return deviation
    except (NotJudged, Unsupported):
        return None
    return None


def brief(error: BaseException) -> str:
    """Return the message of a SpecError, or the end of the traceback of any other error."""
    if isinstance(error, SpecError):
        return str(error)
    return "".join(traceback.format_exception(error)[-3:])
