"""Binary cross entropy between the sigmoid of the input and the target."""

from lossspec.maths import minus_log_sigmoid
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.roles import Logit, Probability, Weight


def define(input, target, weight, pos_weight):
    """Return -w (p y log σ(x) + (1 - y) log(1 - σ(x)))."""
    minus_log_p, minus_log_q = minus_log_sigmoid(input)  # -log σ(x), -log (1 - σ(x))
    return weight * (pos_weight * target * minus_log_p + (1 - target) * minus_log_q)


spec = Loss(
    name="binary_cross_entropy_with_logits",
    module="BCEWithLogitsLoss",
    summary="Binary cross entropy of the sigmoid of the input x relative to the target y.",
    formula=r"\ell(x, y) = -w\,[\,p\,y \log\sigma(x) + (1 - y)\log(1 - \sigma(x))\,]",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(
            shapes=("(*), (*) -> (*)",),
            tensors={"input": Logit(), "target": Probability(learned=False)},
        ),
    ),
    options={
        "weight": Weight(shape="broadcasts with input", doc="Factor for each element."),
        "pos_weight": Weight(
            shape="broadcasts with input",
            doc="Factor p for the term of the positive class, y log σ(x).",
        ),
    },
    examples=(
        Example(
            arguments={"input": [0.0, 2.0], "target": [1.0, 0.0]},
            value=1.41,
            source="worked by hand: (log 2 + log(1 + e²)) / 2",
        ),
        Example(
            arguments={"input": [0.0, 2.0], "target": [1.0, 0.0], "pos_weight": [3.0, 3.0]},
            value=2.1032,
            source="worked by hand: (3 log 2 + log(1 + e²)) / 2",
        ),
    ),
)
