"""Soft margin loss: the logistic loss of a score for a label of -1 or 1."""

from lossspec.maths import minus_log_sigmoid, softplus
from lossspec.spec.loss import Example, Form, Loss, Symmetry
from lossspec.spec.roles import Logit, Sign


def define(input, target):
    """Return log(1 + e^(-y x))."""
    return softplus(-target * input)


def as_binary_cross_entropy(input, target):
    """Return -p log σ(x) - (1 - p) log(1 - σ(x)), with p = (1 + y) / 2."""
    minus_log_p, minus_log_q = minus_log_sigmoid(input)  # -log σ(x), -log (1 - σ(x))
    return (1 + target) / 2 * minus_log_p + (1 - target) / 2 * minus_log_q  # y selects one


spec = Loss(
    name="soft_margin_loss",
    module="SoftMarginLoss",
    summary="The logistic loss of the score x for the label y, which is -1 or 1.",
    formula=r"\ell(x, y) = \log(1 + e^{-y x})",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.SoftMarginLoss.html",
    define=define,
    equivalents=(as_binary_cross_entropy,),
    broadcasts=True,  # torch broadcasts a target to the input without a warning
    deprecated_reductions=True,
    forms=(Form(shapes=("(*), (*) -> (*)",), tensors={"input": Logit(), "target": Sign()}),),
    symmetries=(
        Symmetry(
            says="input and target negated",
            maps={"input": ("input", -1, 0), "target": ("target", -1, 0)},
        ),
    ),
    examples=(
        Example(
            arguments={"input": [0.0, 2.0, 2.0], "target": [1.0, 1.0, -1.0]},
            value=0.9823,
            source="worked by hand: (0.6931 + 0.1269 + 2.1269) / 3",
        ),
    ),
)
