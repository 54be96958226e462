"""L1 loss: the absolute error."""

from lossspec.maths import absolute
from lossspec.spec.loss import OF_DIFFERENCE, Example, Form, Loss
from lossspec.spec.roles import Real, Weight


def define(input, target, weight):
    """Return w |x - y|."""
    return weight * absolute(input - target)


def divisor(weight):
    """Return w: the mean divides by the sum of the weights."""
    return weight


spec = Loss(
    name="l1_loss",
    module="L1Loss",
    summary="The absolute error between input x and target y.",
    formula=r"\ell(x, y) = w\,|x - y|",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.L1Loss.html",
    define=define,
    symmetries=OF_DIFFERENCE,
    complex=True,
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=("(*), (*) -> (*)",),
            tensors={"input": Real(), "target": Real(learned=False)},
            divisor=divisor,
        ),
    ),
    options={
        "weight": Weight(
            shape="like input",
            surfaces=("function",),
            adjustable=True,
            doc="Factor for each element; the mean divides by the sum of the weights.",
        )
    },
    piecewise_linear=True,
    examples=(
        Example(
            arguments={"input": [1.0, 2.5, 4.0, 0.5], "target": [2.0, 2.5, 2.0, 1.0]},
            value=0.875,
            source="worked by hand: (1 + 0 + 2 + 0.5) / 4",
        ),
    ),
)
