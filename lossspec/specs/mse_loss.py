"""MSE loss: the squared error."""

from lossspec.spec.loss import OF_DIFFERENCE, Example, Form, Loss
from lossspec.spec.roles import Real, Weight


def define(input, target, weight):
    """Return w (x - y)²."""
    return weight * (input - target) ** 2


def divisor(weight):
    """Return w: the mean divides by the sum of the weights."""
    return weight


spec = Loss(
    name="mse_loss",
    module="MSELoss",
    summary="The squared error between input x and target y.",
    formula=r"\ell(x, y) = w\,(x - y)^2",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.MSELoss.html",
    define=define,
    symmetries=OF_DIFFERENCE,
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
    examples=(
        Example(
            arguments={"input": [1.0, 2.5, 4.0, 0.5], "target": [2.0, 2.5, 2.0, 1.0]},
            value=1.3125,
            source="worked by hand: (1 + 0 + 4 + 0.25) / 4",
        ),
    ),
)
