"""Huber loss: quadratic within delta of the target, linear beyond."""

from lossspec.maths import absolute, where
from lossspec.spec import OF_DIFFERENCE, Form, Loss, Real, Weight, number


def define(input, target, delta, weight):
    r = absolute(input - target)
    return weight * where(r < delta, r**2 / 2, delta * (r - delta / 2))


spec = Loss(
    name="huber_loss",
    module="HuberLoss",
    summary="Half the squared error where it falls below δ, else linear with slope δ.",
    formula=r"\ell(x, y) = w \begin{cases} (x - y)^2 / 2 & |x - y| < \delta \\"
    r" \delta\,(|x - y| - \delta / 2) & \text{otherwise} \end{cases}",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.HuberLoss.html",
    define=define,
    symmetries=OF_DIFFERENCE,
    forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real()}),),
    options={
        "weight": Weight(
            shape="like input",
            surfaces=("function",),
            doc="Factor for each element; the mean still divides by the number of elements.",
        )
    },
    parameters={"delta": number(1.0, 0.25, 3.0, refused=(-1.0, 0.0), doc="Where the square ends.")},
)
