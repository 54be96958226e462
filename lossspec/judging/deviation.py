"""How a trial breaks a clause, and how an error of lossspec itself reads."""

from __future__ import annotations

import traceback

from lossspec.clauses import Clause
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported
from lossspec.errors import SpecError
from lossspec.execution.global_state import preserved
from lossspec.execution.timeout import CallTimeout, time_limit


def deviation_of(clause: Clause, trial: Trial) -> Deviation | None:
    """Return how a trial breaks a clause; None if it does not."""
    try:
        with time_limit(), preserved():
            if clause.unmet(trial) is None:
                clause.judge(trial)
    except Deviation as deviation:
        return deviation
    except (NotJudged, Unsupported, CallTimeout):
        return None
    return None


def brief(error: BaseException) -> str:
    """Return the text of an error of lossspec or of a spec, with where lossspec raised it."""
    if isinstance(error, SpecError):
        return str(error)
    return "".join(traceback.format_exception(error)[-3:])
