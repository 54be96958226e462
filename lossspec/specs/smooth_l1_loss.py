"""Smooth L1 loss: quadratic within beta of the target, absolute beyond."""

from math import inf

from lossspec.maths import absolute, accumulated, minimum, where
from lossspec.spec.loss import OF_DIFFERENCE, Example, Form, Loss
from lossspec.spec.parameters import number
from lossspec.spec.roles import Real


def define(input, target, beta):
    """Return r² / 2β for r < β, and r - β / 2 otherwise, with r = |input - target|."""
    # At r = 0 the loss has no kink, but `absolute` has: second derivatives are not judged there.
    r = absolute(input - target)
    if beta == 0:
        return r
    return where(r < beta, r**2 / (2 * beta), r - beta / 2)


def without_branches(input, target, beta):
    """Return q² / 2β + r - q, with q = min(r, β)."""
    r = absolute(input - target)
    if beta == 0:
        return r
    q = accumulated(minimum(r, beta))
    return q**2 / (2 * beta) + (r - q)


def of_huber(input, target, beta):
    """Return the Huber loss whose delta is β, divided by β."""
    r = absolute(input - target)
    if beta == 0:
        return r
    return where(r < beta, r**2 / 2, beta * (r - beta / 2)) / beta


spec = Loss(
    name="smooth_l1_loss",
    module="SmoothL1Loss",
    summary="The squared error divided by 2β if the absolute error is below β; otherwise the"
    " absolute error minus β/2.",
    formula=r"\ell(x, y) = \begin{cases} (x - y)^2 / 2\beta & |x - y| < \beta \\"
    r" |x - y| - \beta / 2 & \text{otherwise} \end{cases}",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.SmoothL1Loss.html",
    define=define,
    equivalents=(without_branches, of_huber),
    symmetries=OF_DIFFERENCE,
    deprecated_reductions=True,
    forms=(
        Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real(learned=False)}),
    ),
    parameters={
        "beta": number(
            *(1.0, 0.0, 0.3, 2.5, 2.0**-20, inf),
            refused=(-1.0,),
            doc="The absolute error β above which the loss is linear; 0 gives the L1 loss, and inf"
            " gives 0.",
        )
    },
    examples=(
        Example(
            arguments={"input": [1.0, 2.5, 4.0, 0.5], "target": [2.0, 2.5, 2.0, 1.0]},
            value=0.53125,
            source="worked by hand: (0.5 + 0 + 1.5 + 0.125) / 4",
        ),
        Example(
            arguments={"input": [1.0, 2.5, 4.0, 0.5], "target": [2.0, 2.5, 2.0, 1.0]},
            parameters={"beta": 0.5},
            value=0.6875,
            source="worked by hand: (0.75 + 0 + 1.75 + 0.25) / 4",
        ),
    ),
)
