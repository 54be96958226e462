"""Clauses on what a call takes of the machine."""

from __future__ import annotations

import numpy as np

from lossspec.cases.axes import part_along
from lossspec.clauses import Judgement, clause
from lossspec.clauses.trial import Deviation, Trial, Unsupported
from lossspec.execution.outcome import differentiable
from lossspec.safe_text import foreign_error
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface
from lossspec.spec.shapes import written_out
from lossspec.thresholds import MEMORY_TIMES, WEIGHED_COPIES, WEIGHED_ELEMENTS


def _elementwise(loss: Loss, surface: Surface) -> bool:
    contracts = (contract for form in loss.forms for contract in form.contracts)
    return not any(written_out(c.text, spread).core for c in contracts for spread in c.spreads)


@clause(_elementwise, enough=1, slow=True)
def memory_in_proportion(trial: Trial) -> Judgement:
    """Forward and backward of an elementwise loss hold at most 64 times the memory of its input."""
    from lossspec.execution.memory import weighed

    case = trial.case
    axis = next(iter(case.shape.result), None)
    if case.dtype != "float32" or axis is None or not differentiable(trial.outcome.value):
        return None
    size = case.axis_sizes(trial.loss)[axis]
    if size < 2 or not 0 < trial.expected.losses.size <= WEIGHED_ELEMENTS // WEIGHED_COPIES:
        return None
    copies = WEIGHED_ELEMENTS // trial.expected.losses.size + 1
    many = part_along(trial.loss, case, axis, np.arange(size * copies) % size).with_(layouts={})
    if not trial.allows(many):
        return None
    try:
        held, given = weighed(trial.under_test, many, trial.device)
    except Exception as error:  # what raises deviates from other clauses
        raise Unsupported(f"its memory could not be measured ({foreign_error(error)})") from None
    trial.worst = held / (MEMORY_TIMES * given)
    if trial.worst > 1:
        raise Deviation(
            f"the peak memory of a call on {WEIGHED_ELEMENTS} elements",
            f"{held / given:.0f} times its input",
            f"at most {MEMORY_TIMES} times",
            check=None,
        )
    return held > 0  # a library of arrays allocates where nobody looks
