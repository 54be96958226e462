"""Binary cross entropy between a predicted probability and the target."""

import numpy as np

from lossspec.maths import clamped_log
from lossspec.spec.loss import Example, Form, Loss, Refusal
from lossspec.spec.roles import Probability, Weight

LOWEST = -100.0  # the lower bound of each logarithm
EDGE = 1e-12  # x (1 - x) below which the gradient may be limited to keep it finite


def define(input, target, weight):
    """Return -w (y log x + (1 - y) log(1 - x)), with each logarithm at least -100."""
    at_edge = input * (1 - input) < EDGE
    log_p = clamped_log(input, LOWEST, held=at_edge)
    log_q = clamped_log(1 - input, LOWEST, held=at_edge)
    return -weight * (target * log_p + (1 - target) * log_q)


def beyond(name, end, way):
    """Return a change of a valid call: move one element just beyond an end of [0, 1]."""

    def breaks(tensors, parameters):
        x = tensors[name]
        if not x.size:
            return False
        x.flat[x.size // 2] = np.nextafter(x.dtype.type(end), x.dtype.type(way))
        return True

    return breaks


spec = Loss(
    name="binary_cross_entropy",
    module="BCELoss",
    summary="Binary cross entropy of the probability x relative to the target y. Each logarithm is"
    " at least -100.",
    formula=r"\ell(x, y) = -w\,[\,y \max(\log x, -100) + (1 - y) \max(\log(1 - x), -100)\,]",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=("(*), (*) -> (*)",),
            tensors={"input": Probability(), "target": Probability(learned=False)},
        ),
    ),
    options={"weight": Weight(shape="broadcasts with input", doc="Factor for each element.")},
    # torch refuses such targets too, but its documentation only says what they should be.
    refusals=tuple(
        Refusal(
            says=f"an element of input is {side}",
            breaks=beyond("input", end, way),
        )
        for side, end, way in (("below 0", 0, -np.inf), ("above 1", 1, np.inf))
    ),
    examples=(
        Example(
            arguments={"input": [0.5, 0.25], "target": [1.0, 0.0]},
            value=0.4904,
            source="worked by hand: (log 2 + log 4/3) / 2",
        ),
        Example(
            arguments={"input": [0.0, 1.0, 0.0], "target": [1.0, 0.0, 0.25]},
            value=[100.0, 100.0, 25.0],
            reduction="none",
            source="worked by hand: log 0 counts as -100",
        ),
    ),
    notes=(
        "The documentation promises a gradient that stays finite at x = 0 and x = 1. It does not"
        " say how close to them the gradient departs from that of the formula. If x (1 - x) <"
        " 1e-12, the bound of torch, any finite gradient from 0 to that of the formula is correct.",
    ),
)
