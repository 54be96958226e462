"""Multi-label soft margin loss: binary cross entropy of each class, averaged over the classes."""

from lossspec.maths import minus_log_sigmoid, total
from lossspec.spec.loss import Example, Form, Loss
from lossspec.spec.roles import Binary, Logit, Weight


def define(input, target, weight):
    """Return -(1 / C) Σ w (y log σ(x) + (1 - y) log(1 - σ(x))) over the classes."""
    classes = input.shape[-1]
    minus_log_p, minus_log_q = minus_log_sigmoid(input)  # -log σ(x), -log (1 - σ(x))
    return total(weight * (target * minus_log_p + (1 - target) * minus_log_q)) / classes


spec = Loss(
    name="multilabel_soft_margin_loss",
    module="MultiLabelSoftMarginLoss",
    summary="Binary cross entropy of the sigmoid of each class's score x relative to its label y,"
    " weighted and averaged over the classes.",
    formula=r"\ell(x, y) = -\frac{1}{C} \sum_i w_i\,[\,y_i \log\sigma(x_i)"
    r" + (1 - y_i)\log(1 - \sigma(x_i))\,]",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelSoftMarginLoss.html",
    define=define,
    deprecated_reductions=True,
    forms=(
        Form(shapes=("(N, C), (N, C) -> (N)",), tensors={"input": Logit(), "target": Binary()}),
    ),
    options={
        "weight": Weight(
            shape="(C)",
            doc="Factor for each class; the average still divides by the number of classes.",
        )
    },
    examples=(
        Example(
            arguments={"input": [[0.0, 0.0, 200.0, -200.0]], "target": [[1.0, 0.0, 1.0, 1.0]]},
            value=50.3466,
            source="worked by hand: (2 log 2 + 0 + 200) / 4",
        ),
    ),
)
