"""Clauses on the memory that a call uses."""

from __future__ import annotations

import numpy as np

from lossspec.cases.axes import part_along
from lossspec.clauses import Judgement, clause, independent
from lossspec.clauses.precondition import precondition
from lossspec.clauses.trial import Deviation, NotJudged, Trial, Unsupported
from lossspec.excuse import Excuse
from lossspec.execution.outcome import differentiable
from lossspec.safe_text import foreign_error
from lossspec.spec.loss import Loss
from lossspec.spec.roles import Surface
from lossspec.spec.shapes import written_out
from lossspec.thresholds import MEMORY_TIMES, WEIGHED_COPIES, WEIGHED_ELEMENTS


def _elementwise(loss: Loss, surface: Surface) -> bool:
    contracts = (contract for form in loss.forms for contract in form.contracts)
    spread = (written_out(c.text, n) for c in contracts for n in c.spreads)
    return independent(loss, surface) and not any(contract.core for contract in spread)


@precondition()
def _in_float32(trial: Trial) -> bool:
    """The call is in float32."""
    return trial.case.dtype == "float32"


@precondition(Excuse.NOT_DIFFERENTIABLE)
def _has_graph(trial: Trial) -> bool:
    """Backward can start from the result."""
    return differentiable(trial.outcome.value)


@precondition()
def _several_along_an_axis(trial: Trial) -> bool:
    """The first axis of the unreduced result has at least two elements."""
    names = trial.case.shape.result
    return bool(names) and trial.case.axis_sizes(trial.loss)[names[0]] > 1


@precondition(Excuse.TOO_EXPENSIVE)
def _small_beside_weighed(trial: Trial) -> bool:
    """The unreduced loss is not empty, and small enough to be repeated at least 8 times."""
    return 0 < trial.expected.losses.size <= WEIGHED_ELEMENTS // WEIGHED_COPIES


@clause(
    _elementwise,
    enough=1,
    slow=True,
    requires=[_in_float32, _has_graph, _several_along_an_axis, _small_beside_weighed],
)
def memory_in_proportion(trial: Trial) -> Judgement:
    """The peak memory of forward and backward of an elementwise loss is at most 64 times that of
    its inputs."""
    from lossspec.execution.memory import weighed

    case = trial.case
    axis = case.shape.result[0]
    size = case.axis_sizes(trial.loss)[axis]
    copies = WEIGHED_ELEMENTS // trial.expected.losses.size + 1
    many = part_along(trial.loss, case, axis, np.arange(size * copies) % size).with_(layouts={})
    if not trial.allows(many):
        raise NotJudged(Excuse.NOT_ABOUT)
    try:
        held, given = weighed(trial.under_test, many, trial.device)
    except Exception as error:  # other clauses report the error
        raise Unsupported(f"its memory could not be measured ({foreign_error(error)})") from None
    trial.worst = held / (MEMORY_TIMES * given)
    if trial.worst > 1:
        raise Deviation(
            f"the peak memory of a call on {WEIGHED_ELEMENTS} elements",
            f"{held / given:.0f} times the memory of its inputs",
            f"at most {MEMORY_TIMES} times",
            check=None,
        )
    return held > 0  # other array libraries allocate outside torch
