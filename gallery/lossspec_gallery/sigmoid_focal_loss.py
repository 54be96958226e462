"""Focal loss: binary cross entropy that counts less where the prediction is right already."""

from lossspec.maths import sigmoid, softplus, where
from lossspec.spec import Binary, Example, Form, Logit, Loss, number


def define(input, target, alpha, gamma):
    """Return -α_t (1 - p_t)^γ log p_t, where p_t is the probability of the target."""
    wrong = where(target == 1, -input, input)  # the score of the outcome that did not happen
    balance = where(target == 1, alpha, 1 - alpha)
    return balance * sigmoid(wrong) ** gamma * softplus(wrong)


spec = Loss(
    name="sigmoid_focal_loss",
    module=None,
    summary="Binary cross entropy of the score x and the target y, times α for y = 1 and 1 - α for"
    " y = 0, and times (1 - p)^γ, where p is the probability that the score gives to the target.",
    formula=r"\ell(x, y) = \begin{cases} -\alpha\,(1 - p)^\gamma \log p,\; p = \sigma(x)"
    r" & y = 1 \\ -(1 - \alpha)\,(1 - p)^\gamma \log p,\; p = 1 - \sigma(x) & y = 0 \end{cases}",
    source="https://arxiv.org/abs/1708.02002",
    define=define,
    forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Logit(), "target": Binary()}),),
    parameters={
        "alpha": number(
            *(0.25, 0.0, 0.6, 1.0), refused=(-0.5, 1.5), doc="The weight of y = 1, in [0, 1]."
        ),
        "gamma": number(
            *(2.0, 0.0, 1.0, 5.0),
            refused=(-1.0,),
            doc="How fast a right prediction stops counting.",
        ),
    },
    examples=(
        Example(
            arguments={"input": [0.0, 0.0], "target": [0.0, 1.0]},
            value=0.0866,
            source="worked by hand: (3/4 + 1/4) / 2 · log(2) / 4",
        ),
        Example(
            arguments={"input": [2.0], "target": [0.0]},
            parameters={"alpha": 0.0, "gamma": 1.0},
            value=1.8734,
            source="worked by hand: 0.8808 · 2.1269",
        ),
    ),
)
