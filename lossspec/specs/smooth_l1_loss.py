"""Smooth L1 loss: quadratic within beta of the target, absolute beyond."""

from lossspec.maths import absolute, cancelled, constant, where
from lossspec.spec.loss import OF_DIFFERENCE, Example, Form, Loss
from lossspec.spec.parameters import number
from lossspec.spec.roles import Real


def define(input, target, beta):
    # Of the square of r no second derivative is asked at 0, where |x| has one of 0.
    r = absolute(input - target)
    if beta == 0:
        return r
    beta = constant(beta, like=r)
    # `cancelled` adds 0: it allows the rounding of the equal form q²/2β + r - q, q = min(r, β).
    return where(r < beta, r**2 / (2 * beta) + cancelled(r), r - beta / 2)


spec = Loss(
    name="smooth_l1_loss",
    module="SmoothL1Loss",
    summary="The squared error over 2β where it falls below β, else the absolute error less β/2.",
    formula=r"\ell(x, y) = \begin{cases} (x - y)^2 / 2\beta & |x - y| < \beta \\"
    r" |x - y| - \beta / 2 & \text{otherwise} \end{cases}",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.SmoothL1Loss.html",
    define=define,
    symmetries=OF_DIFFERENCE,
    deprecated_reductions=True,
    forms=(
        Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real(learned=False)}),
    ),
    parameters={
        "beta": number(
            *(1.0, 0.0, 0.3, 3.0, 2.0**-20),
            refused=(-1.0,),
            doc="Where the square ends; 0 is the L1 loss.",
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
