"""Huber loss: quadratic within delta of the target, linear beyond."""

from lossspec.maths import absolute, accumulated, minimum, where
from lossspec.spec.loss import OF_DIFFERENCE, Example, Form, Loss
from lossspec.spec.parameters import number
from lossspec.spec.roles import Real, Weight


def define(input, target, delta, weight):
    """Return weight r² / 2 for r < δ, else weight δ (r - δ / 2), with r = |input - target|."""
    # At r = 0 the loss has no kink, but `absolute` has: second derivatives are not judged there.
    r = absolute(input - target)
    return weight * where(r < delta, r**2 / 2, delta * (r - delta / 2))


def without_branches(input, target, delta, weight):
    """Return w (q² / 2 + δ (r - q)), with q = min(r, δ)."""
    r = absolute(input - target)
    q = accumulated(minimum(r, delta))
    return weight * (q**2 / 2 + delta * (r - q))


def of_smooth_l1(input, target, delta, weight):
    """Return δ times the smooth L1 loss whose beta is δ."""
    r = absolute(input - target)
    return weight * (delta * where(r < delta, r**2 / (2 * delta), r - delta / 2))


spec = Loss(
    name="huber_loss",
    module="HuberLoss",
    summary="Half the squared error if the absolute error |input - target| is below δ. From δ on,"
    " the loss is linear in the absolute error, with derivative δ.",
    formula=r"\ell(x, y) = w \begin{cases} (x - y)^2 / 2 & |x - y| < \delta \\"
    r" \delta\,(|x - y| - \delta / 2) & \text{otherwise} \end{cases}",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.HuberLoss.html",
    define=define,
    equivalents=(without_branches, of_smooth_l1),
    symmetries=OF_DIFFERENCE,
    forms=(
        Form(shapes=("(*), (*) -> (*)",), tensors={"input": Real(), "target": Real(learned=False)}),
    ),
    options={
        "weight": Weight(
            shape="like input",
            surfaces=("function",),
            adjustable=True,
            doc="It multiplies the loss of each element; the mean still divides by the number of"
            " elements.",
        )
    },
    parameters={
        # Most right formulas multiply δ by 0 somewhere, so δ = inf is not drawn.
        "delta": number(
            1.0,
            0.3,
            2.5,
            1000.0,
            refused=(-1.0, 0.0),
            doc="The absolute error δ above which the loss is linear; it must be positive.",
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
            parameters={"delta": 0.5},
            value=0.34375,
            source="worked by hand: (0.375 + 0 + 0.875 + 0.125) / 4",
        ),
    ),
)
