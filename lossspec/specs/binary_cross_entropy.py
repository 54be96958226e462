"""Binary cross entropy between the input, a probability, and the target."""

import numpy as np

from lossspec.maths import clamped_log, complement
from lossspec.spec.loss import Example, Form, Loss, Refusal
from lossspec.spec.roles import Probability, Weight

LOWEST = -100.0  # of a logarithm
EDGE = 1e-12  # of x (1 - x): how close to 0 or 1 the gradient may be held back to stay finite


def define(input, target, weight):
    at_edge = input * (1 - input) < EDGE
    log_p = clamped_log(input, LOWEST, held=at_edge)
    log_q = clamped_log(complement(input), LOWEST, held=at_edge)
    return -weight * (target * log_p + (1 - target) * log_q)


def beyond(name, end, way):
    """Put one element of a tensor beyond an end of [0, 1], as near to it as can be."""

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
    summary="Binary cross entropy of the probability x relative to the target y, each logarithm"
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
    refusals=tuple(
        Refusal(
            says=f"an element of {name} is {side}",
            breaks=beyond(name, end, way),
        )
        for name in ("input", "target")
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
        "The documentation promises a finite gradient at 0 and 1, linear in x, but not how close to"
        " them it departs from the formula's. Where x (1 - x) < 1e-12, as in torch, anything finite"
        " from 0 to the formula's is right.",
    ),
)
